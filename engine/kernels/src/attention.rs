//! Attention on the processor (FlashAttention-2, arXiv:2307.08691), where it is faster than libtorch's.

use crate::launch::torch;
use crate::processor::InstructionSet;
use neva_torch_ffi::{BoxError, Error, Function, Result, apply};
use std::ffi::{c_int, c_void};
use tch::{Device, Kind, Tensor};

const OP: &str = "attention";
/// Widest head, so that the blocks of a head lie in the cache.
const WIDEST: i64 = 256;

/// Consecutive positions of one row that attend to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The row of the batch.
    pub row: usize,
    /// Its first position.
    pub start: usize,
    /// Number of its positions.
    pub len: usize,
}

/// Implementation of attention on the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKind {
    /// libtorch's.
    Libtorch,
    /// [`attention`] in fp32, and libtorch's in bf16.
    BlockedInFp32,
    /// [`attention`].
    Blocked,
}

impl AttentionKind {
    /// Returns the choice for this processor: a function of its instruction sets, so that it is the same in every run.
    ///
    /// | processor | time of both passes relative to libtorch's flash attention, bf16; fp32 | choice |
    /// |---|---|---|
    /// | AVX-512 BF16 without AMX (Zen 4) | see below | blocked |
    /// | AMX (Sapphire or Emerald Rapids), with which libtorch multiplies in bf16 | see below | blocked in fp32 |
    /// | others | not measured | libtorch |
    ///
    /// Zen 4, one thread, processor time, rows x heads x positions x width of a head:
    ///
    /// | causal | bf16; fp32 | full | bf16; fp32 |
    /// |---|---|---|---|
    /// | 2 x 12 x 16 x 64 | 0.07; 0.61 | 4 x 12 x 197 x 64 | 0.42; 0.84 |
    /// | 2 x 12 x 64 x 64 | 0.19; 0.79 | 1 x 12 x 577 x 64 | 0.43; 0.80 |
    /// | 2 x 12 x 512 x 64 | 0.32; 0.48 | 1 x 8 x 730 x 80 | 0.47; 0.86 |
    /// | 1 x 8 x 2048 x 64 | 0.47; 0.70 | | |
    /// | 1 x 8 x 2048 x 128 | 0.50; 0.71 | | |
    /// | 2 x 4 x 300 x 256 | 0.34; 0.53 | | |
    ///
    /// AMX, in the same way, on a machine with other work. Rows of up to 64 positions take 0.08 to 0.34 in bf16, too:
    ///
    /// | causal | bf16; fp32 | full | bf16; fp32 |
    /// |---|---|---|---|
    /// | 2 x 12 x 64 x 64 | 0.34; 0.82 | 4 x 12 x 197 x 64 | 0.95; 0.87 |
    /// | 2 x 12 x 512 x 64 | 0.86; 0.53 | 1 x 12 x 577 x 64 | 1.08; 0.89 |
    /// | 1 x 8 x 2048 x 64 | 1.76; 0.79 | 1 x 8 x 730 x 80 | 1.45; 0.91 |
    /// | 1 x 8 x 2048 x 128 | 2.74; 0.81 | | |
    /// | 2 x 4 x 300 x 256 | 1.54; 0.75 | | |
    pub fn of_processor() -> Self {
        match InstructionSet::best() {
            #[cfg(with_avx512_bf16)]
            InstructionSet::Avx512Bf16 => match neva_has_amx_avx512_bf16() {
                0 => Self::Blocked,
                _ => Self::BlockedInFp32,
            },
            _ => Self::Libtorch,
        }
    }

    /// Returns the name, as checkpoints store it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libtorch => "libtorch",
            Self::BlockedInFp32 => "blocked in fp32",
            Self::Blocked => "blocked",
        }
    }

    /// Returns whether [`attention`] is chosen for tensors of this data type.
    pub fn is_blocked(self, kind: Kind) -> bool {
        match self {
            Self::Libtorch => false,
            Self::BlockedInFp32 => kind == Kind::Float,
            Self::Blocked => true,
        }
    }
}

/// Returns whether [`attention`] computes with such tensors `[b, n, s, d]`, and this processor is faster with it.
pub fn prefers_blocked_attention(q_bnsd: &Tensor, k_bnsd: &Tensor) -> bool {
    AttentionKind::of_processor().is_blocked(q_bnsd.kind()) && is_covered(q_bnsd, k_bnsd)
}

fn is_covered(q: &Tensor, k: &Tensor) -> bool {
    let (&[b, heads, s, d], &[kv_b, kv_heads, kv_s, kv_d]) = (&q.size()[..], &k.size()[..]) else {
        return false;
    };
    let shapes = (b, s, d) == (kv_b, kv_s, kv_d) && kv_heads > 0 && heads % kv_heads == 0;
    shapes && s > 0 && d > 0 && d % 16 == 0 && d <= WIDEST && q.device() == Device::Cpu && kind_number(q.kind()).is_some()
}

/// Returns the number of a data type in calls of C++. bf16 needs a processor that multiplies it.
fn kind_number(kind: Kind) -> Option<i32> {
    match (kind, InstructionSet::best()) {
        (Kind::Float, InstructionSet::Avx512 | InstructionSet::Avx512Bf16) => Some(0),
        (Kind::BFloat16, InstructionSet::Avx512Bf16) => Some(1),
        _ => None,
    }
}

/// Computes attention within each segment, causal or full. Shapes `[b, n, s, d]`; groups of query heads share a key head.
/// Positions without a segment give zeros. The result lies in memory as `[b, s, n, d]`. Two segments of a row may not overlap.
///
/// # Errors
/// The shapes do not fit, this processor has no such kernel, or there is no memory.
pub fn attention(q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &[Segment], causal: bool) -> Result<Tensor> {
    let (size, kinds) = (q_bnsd.size(), [q_bnsd.kind(), k_bnsd.kind(), v_bnsd.kind()]);
    let fits = is_covered(q_bnsd, k_bnsd) && v_bnsd.size() == k_bnsd.size() && kinds.iter().all(|kind| *kind == kinds[0]);
    if !fits {
        return Err(Error::Argument(format!(
            "{OP} of {size:?} to {:?} in {:?}",
            k_bnsd.size(),
            kinds[0]
        )));
    }
    let node = Attention {
        segments: flat(segments, &size)?,
        whole: is_whole(segments, &size),
        causal,
        saved: None,
    };
    let mut outputs = apply(node, &[q_bnsd, k_bnsd, v_bnsd])?;
    outputs.pop().ok_or_else(|| Error::Argument(format!("{OP}: no output")))
}

/// Returns the numbers of the segments, after a check that they lie in `[b, n, s, d]` and do not overlap.
fn flat(segments: &[Segment], size: &[i64]) -> Result<Vec<i64>> {
    let mut sorted: Vec<_> = segments.iter().filter(|segment| segment.len > 0).copied().collect();
    sorted.sort_unstable_by_key(|segment| (segment.row, segment.start));
    let outside = |segment: &Segment| segment.row as i64 >= size[0] || (segment.start + segment.len) as i64 > size[2];
    let overlap = |pair: &[Segment]| pair[0].row == pair[1].row && pair[0].start + pair[0].len > pair[1].start;
    if sorted.iter().any(outside) || sorted.windows(2).any(overlap) {
        return Err(Error::Argument(format!("{OP} of {size:?} with segments {segments:?}")));
    }
    let numbers = sorted.iter().flat_map(|segment| [segment.row, segment.start, segment.len]);
    Ok(numbers.map(|number| number as i64).collect())
}

/// Returns whether every position has a segment.
fn is_whole(segments: &[Segment], size: &[i64]) -> bool {
    segments.iter().map(|segment| segment.len as i64).sum::<i64>() == size[0] * size[2]
}

/// `neva_heads` of `cpp/attention.cpp`.
#[repr(C)]
struct Heads {
    at: *mut c_void,
    strides: [i64; 3],
}

impl Heads {
    /// The strides of `[b, n, s, d]`, whose values of a head are neighbours.
    fn of(tensor: Option<&Tensor>) -> Self {
        match tensor {
            Some(tensor) => {
                let stride = tensor.stride();
                Self {
                    at: tensor.data_ptr(),
                    strides: [stride[0], stride[1], stride[2]],
                }
            }
            None => Self {
                at: std::ptr::null_mut(),
                strides: [0; 3],
            },
        }
    }
}

/// `neva_attention` of `cpp/attention.cpp`.
#[repr(C)]
struct Call {
    /// Queries, keys, values, output, and the gradients of output, queries, keys and values.
    heads: [Heads; 8],
    lse: *mut f32,
    sizes: [i64; 4],
    segments: *const i64,
    segment_count: i64,
    causal: i32,
    scale: f32,
}

unsafe extern "C" {
    #[cfg(with_avx512)]
    fn neva_attention_avx512(call: *const Call, kind: i32, is_backward: i32) -> c_int;
    #[cfg(with_avx512_bf16)]
    safe fn neva_has_amx_avx512_bf16() -> c_int;
    #[cfg(with_avx512_bf16)]
    fn neva_attention_avx512_bf16(call: *const Call, kind: i32, is_backward: i32) -> c_int;
}

/// Runs a pass with the best instruction set. Returns 0, 1 without memory, 2 without such a kernel.
///
/// # Safety
/// The pointers of `call` are to tensors of the shapes that it states, in the data type `kind`.
unsafe fn run(call: &Call, kind: i32, is_backward: bool) -> c_int {
    let is_backward = i32::from(is_backward);
    match InstructionSet::best() {
        #[cfg(with_avx512_bf16)]
        // SAFETY: guaranteed by the caller; the processor has the instructions.
        InstructionSet::Avx512Bf16 => unsafe { neva_attention_avx512_bf16(call, kind, is_backward) },
        #[cfg(with_avx512)]
        // SAFETY: as above.
        InstructionSet::Avx512 => unsafe { neva_attention_avx512(call, kind, is_backward) },
        _ => {
            let _none = (call, kind, is_backward);
            2
        }
    }
}

/// Autograd node. Probabilities are computed again in the backward pass.
struct Attention {
    /// Row, first position and length of each segment.
    segments: Vec<i64>,
    /// Whether every position has a segment.
    whole: bool,
    causal: bool,
    saved: Option<Saved>,
}

struct Saved {
    /// Queries, keys, values and output.
    tensors: [Tensor; 4],
    lse_bns: Tensor,
}

impl Attention {
    /// Returns room for `[b, n, s, d]`, whose rows have all heads of a position, as projections have them.
    fn room(&self, like: &Tensor) -> Result<Tensor> {
        let (size, options) = (like.size(), (like.kind(), like.device()));
        let rows = [size[0], size[2], size[1], size[3]];
        let room = if self.whole {
            Tensor::f_empty(rows, options)
        } else {
            Tensor::f_zeros(rows, options)
        };
        room.and_then(|room| room.f_transpose(1, 2)).map_err(torch(OP))
    }

    fn run(&self, tensors: [&Tensor; 4], grads: Option<[&Tensor; 4]>, lse_bns: &Tensor) -> Result<()> {
        let [q, k, ..] = tensors;
        let (size, kv_heads) = (q.size(), k.size()[1]);
        let all = tensors
            .map(Some)
            .into_iter()
            .chain(grads.map_or([None; 4], |grads| grads.map(Some)));
        let all: Vec<_> = all.map(Heads::of).collect();
        let kind = kind_number(q.kind()).ok_or_else(|| Error::Argument(format!("{OP} in {:?}", q.kind())))?;
        let call = Call {
            heads: all.try_into().unwrap_or_else(|_| unreachable!("eight tensors")),
            lse: lse_bns.data_ptr().cast(),
            sizes: [size[1], kv_heads, size[2], size[3]],
            segments: self.segments.as_ptr(),
            segment_count: self.segments.len() as i64 / 3,
            causal: i32::from(self.causal),
            scale: (size[3] as f32).sqrt().recip(),
        };
        // SAFETY: shapes, data types and segments were checked when the node was made, neighbours by `heads` below. The
        // tensors and the segments live during the call.
        match unsafe { run(&call, kind, grads.is_some()) } {
            0 => Ok(()),
            1 => Err(Error::Argument(format!("{OP} of {size:?}: out of memory"))),
            _ => Err(Error::Argument(format!("this processor has no kernel of {OP} in {:?}", q.kind()))),
        }
    }
}

/// Returns heads whose values are neighbours.
fn heads(tensor: &Tensor) -> Result<Tensor> {
    if tensor.stride()[3] == 1 {
        return Ok(tensor.shallow_clone());
    }
    tensor.f_contiguous().map_err(torch(OP))
}

impl Function for Attention {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let [q, k, v] = [heads(inputs[0])?.detach(), heads(inputs[1])?.detach(), heads(inputs[2])?.detach()];
        let o = self.room(&q)?;
        let lse_bns = Tensor::f_empty(&q.size()[..3], (Kind::Float, Device::Cpu))?;
        self.run([&q, &k, &v, &o], None, &lse_bns)?;
        let result = o.shallow_clone();
        self.saved = Some(Saved {
            tensors: [q, k, v, o],
            lse_bns,
        });
        Ok(vec![result])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(grad), Some(saved)) = (&grads[0], &self.saved) else {
            return Ok(vec![None, None, None]);
        };
        let [q, k, v, o] = saved.tensors.each_ref();
        let grad = heads(&grad.f_to_kind(q.kind())?)?;
        let [dq, dk, dv] = [self.room(q)?, self.room(k)?, self.room(v)?];
        self.run([q, k, v, o], Some([&grad, &dq, &dk, &dv]), &saved.lse_bns)?;
        Ok(vec![Some(dq), Some(dk), Some(dv)])
    }
}
