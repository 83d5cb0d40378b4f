//! Scaled dot-product attention over segments.

use tch::Tensor;

/// Segment bounds of each row of a batch: attention never crosses them. A row that is one sample has one
/// segment; a packed row has several. What lies behind a row's last bound is padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// For each row, the ends of its segments, ascending; the first starts at 0.
    ends: Vec<Vec<i64>>,
}

impl Segments {
    /// One segment in each row.
    pub fn rows(lengths: &[usize]) -> Self {
        Self {
            ends: lengths.iter().map(|length| vec![*length as i64]).collect(),
        }
    }

    /// Several segments in each row: `bounds[row]` are the ends of its segments.
    pub fn packed(bounds: Vec<Vec<i64>>) -> Self {
        Self { ends: bounds }
    }

    /// Position of each place within its segment, row by row: `s` entries for each row. Padding counts on.
    pub fn positions(&self, s: i64) -> Vec<Vec<i64>> {
        let row = |ends: &Vec<i64>| {
            let mut start = 0;
            let mut bounds = ends.iter().peekable();
            (0..s)
                .map(|place| {
                    while bounds.peek().is_some_and(|end| **end <= place) {
                        start = bounds.next().copied().unwrap_or(start);
                    }
                    place - start
                })
                .collect()
        };
        self.ends.iter().map(row).collect()
    }

    /// Whether every row is a single segment from its start, so that causality alone keeps padding out.
    fn single(&self) -> bool {
        self.ends.iter().all(|ends| ends.len() <= 1)
    }
}

/// Keys and values of earlier positions, for generation.
#[derive(Debug, Default)]
pub struct KvCache {
    keys_values: Option<(Tensor, Tensor)>,
}

impl KvCache {
    /// Positions that are held.
    pub fn len(&self) -> i64 {
        self.keys_values.as_ref().map_or(0, |(k_bnsd, _)| k_bnsd.size()[2])
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends and returns all keys and values.
    pub fn extend(&mut self, k_bnsd: Tensor, v_bnsd: Tensor) -> (Tensor, Tensor) {
        let (k, v) = match self.keys_values.take() {
            Some((k, v)) => (Tensor::cat(&[k, k_bnsd], 2), Tensor::cat(&[v, v_bnsd], 2)),
            None => (k_bnsd, v_bnsd),
        };
        self.keys_values = Some((k.shallow_clone(), v.shallow_clone()));
        (k, v)
    }
}

/// Causal (`Some(segments)`) or full (`None`) attention. Fewer key heads than query heads are shared by
/// groups of query heads (GQA, arXiv:2305.13245). Shapes `[b, n, s, d]`; returns `[b, s, n * d]`.
pub fn attend(q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, causal: Option<&Segments>) -> Tensor {
    let groups = q_bnsd.size()[1] / k_bnsd.size()[1];
    let (k, v) = (share_heads(k_bnsd, groups), share_heads(v_bnsd, groups));
    let o_bnsd = match causal {
        None => sdpa(q_bnsd, &k, &v, false),
        // A single query is the newest position and sees everything before it.
        Some(_) if q_bnsd.size()[2] == 1 => sdpa(q_bnsd, &k, &v, false),
        Some(segments) if segments.single() => sdpa(q_bnsd, &k, &v, true),
        Some(segments) => segmented(q_bnsd, &k, &v, segments),
    };
    let [b, n, s, d] = <[i64; 4]>::try_from(o_bnsd.size()).unwrap_or_else(|size| unreachable!("attention output {size:?}"));
    o_bnsd.transpose(1, 2).reshape([b, s, n * d])
}

fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, causal, None, false)
}

fn share_heads(x_bnsd: &Tensor, groups: i64) -> Tensor {
    if groups == 1 {
        x_bnsd.shallow_clone()
    } else {
        x_bnsd.repeat_interleave_self_int(groups, 1, None)
    }
}

/// Each segment attends within itself; padding gives zeros.
fn segmented(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments) -> Tensor {
    let size = q.size();
    let (n, s, d) = (size[1], size[2], size[3]);
    let rows = segments.ends.iter().enumerate().map(|(row, ends)| {
        let mut parts = Vec::with_capacity(ends.len() + 1);
        let mut start = 0;
        for end in ends {
            // An empty query kills libtorch's CPU kernel.
            if *end > start {
                let part = |x: &Tensor| x.narrow(0, row as i64, 1).narrow(2, start, end - start);
                parts.push(sdpa(&part(q), &part(k), &part(v), true));
                start = *end;
            }
        }
        if start < s {
            parts.push(Tensor::zeros([1, n, s - start, d], (q.kind(), q.device())));
        }
        Tensor::cat(&parts, 2)
    });
    let rows: Vec<_> = rows.collect();
    Tensor::cat(&rows, 0)
}
