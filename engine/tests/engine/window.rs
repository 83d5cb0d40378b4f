//! Sliding-window attention, compared with the full score matrix.

use crate::setting::difference;
use neva_engine::attention::{KvCache, Segments, attend};
use neva_torch_ffi::grad;
use tch::{Device, Kind, Tensor};

fn value(size: &[i64], phase: f64) -> Tensor {
    let index = Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    (index.square() * 0.37 + index * 1.3 + phase).sin().view(size)
}

/// Computes attention under the mask `attends(query, key)`, in positions of the row; zeros for queries without keys.
fn expected([q, k, v]: &[Tensor; 3], attends: impl Fn(i64, i64) -> bool) -> Tensor {
    let (s, d) = (q.size()[2], q.size()[3]);
    let seen: Vec<bool> = (0..s)
        .flat_map(|query| (0..s).map(move |key| (query, key)))
        .map(|(query, key)| attends(query, key))
        .collect();
    let seen = Tensor::from_slice(&seen).view([s, s]);
    let scores = q.matmul(&k.transpose(2, 3)) / (d as f64).sqrt();
    // A query without keys must not be NaN, which would reach its gradient.
    let probabilities = scores.masked_fill(&seen.logical_not(), -1e30).softmax(-1, Kind::Double) * seen.to_kind(Kind::Double);
    probabilities.matmul(v).transpose(1, 2).flatten(2, 3)
}

/// Compares output and gradients of rows with these segment ends.
#[track_caller]
fn check(s: i64, window: usize, ends: &[i64]) {
    let tensors = || [0.1, 0.2, 0.3].map(|phase| value(&[1, 2, s, 4], phase).set_requires_grad(true));
    let segment = |position: i64| ends.iter().position(|end| position < *end);
    let attends = |query: i64, key: i64| {
        let reached = key <= query && query - key < window as i64;
        reached && segment(query).is_some() && segment(query) == segment(key)
    };
    let results = |own: &[Tensor; 3], out: Tensor| {
        let grads = grad(&[&out], &[Some(&value(&out.size(), 0.4))], &own.each_ref(), false).unwrap();
        let mut all = vec![out.detach()];
        all.extend(grads.into_iter().flatten());
        all
    };
    let segments = Segments::packed(vec![ends.to_vec()]).windowed(Some(window));
    let (a, b) = (tensors(), tensors());
    let got = results(&a, attend(&a[0], &a[1], &a[2], Some(&segments)).unwrap());
    let wanted = results(&b, expected(&b, attends));
    assert_eq!(got.len(), 4);
    for ((got, wanted), what) in got.iter().zip(&wanted).zip(["output", "dq", "dk", "dv"]) {
        let off = difference(got, wanted);
        assert!(
            off <= 1e-9,
            "{s} positions {ends:?} in a window of {window}: {what} is off by {off:e}"
        );
    }
}

#[test]
fn a_query_attends_to_the_nearest_positions_of_its_segment() {
    for (s, window, ends) in [
        (5, 2, vec![5]),
        (5, 9, vec![5]),
        (9, 3, vec![9]),
        // Blocks of 128 queries, the last of them shorter.
        (300, 7, vec![300]),
        (300, 128, vec![300]),
        // Blocks of a window each.
        (300, 131, vec![300]),
        (300, 299, vec![300]),
        (300, 300, vec![300]),
        (40, 6, vec![11, 12, 33]),
        (300, 20, vec![150, 290]),
    ] {
        check(s, window, &ends);
    }
}

/// The newest query over a cache attends to the same keys as in the whole row.
#[test]
fn a_cache_is_read_as_far_as_the_window_reaches() {
    let tensors = [0.1, 0.2, 0.3].map(|phase| value(&[1, 2, 20, 4], phase));
    let at = |x: &Tensor, position: i64| x.narrow(2, position, 1);
    for window in [1, 4, 20, 50] {
        let whole = Segments::rows(&[20]).windowed(Some(window));
        let wanted = attend(&tensors[0], &tensors[1], &tensors[2], Some(&whole)).unwrap();
        let mut cache = KvCache::default();
        for newest in 0..20 {
            let (k, v) = cache.extend(at(&tensors[1], newest), at(&tensors[2], newest));
            let one = Segments::rows(&[1]).windowed(Some(window));
            let got = attend(&at(&tensors[0], newest), &k, &v, Some(&one)).unwrap();
            assert!(
                difference(&got, &wanted.narrow(1, newest, 1)) <= 1e-9,
                "window {window}, position {newest}"
            );
        }
    }
}
