//! Context-parallel attention, compared to attention on one rank.

use crate::setting::{ONE, on_mesh, within_limit};
use neva_engine::attention::{CausalAttention, Segments, attend};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::parallel::{ContextAttention, zigzag};
use neva_schemas::{CpCommType, ParallelSizes};
use neva_torch_ffi::grad;
use tch::{Device, Kind, Tensor};

/// Rows, query heads, key heads, positions, width of a head.
#[derive(Debug, Clone, Copy)]
struct Shape([i64; 5]);

const EXCHANGES: [CpCommType; 2] = [CpCommType::P2p, CpCommType::AllGather];

impl Shape {
    /// Returns queries, keys, values, and the output's gradient `[b, s, n * d]`; the same on every rank.
    fn tensors(self, kind: Kind, scale: f64) -> [Tensor; 4] {
        let Self([b, n, groups, s, d]) = self;
        let value = |size: &[i64], phase: f64| {
            let count: i64 = size.iter().product();
            let positions = Tensor::arange(count, (Kind::Double, Device::Cpu));
            let values = (positions.square() * 0.37 + positions * 1.3 + phase).sin();
            (values * scale).to_kind(kind).view(size)
        };
        [
            value(&[b, n, s, d], 0.1),
            value(&[b, groups, s, d], 0.2),
            value(&[b, groups, s, d], 0.3),
            value(&[b, s, n * d], 0.4),
        ]
    }
}

/// Returns output and gradients of queries, keys and values.
fn results([q, k, v, grad_out]: [Tensor; 4], attention: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Tensor) -> [Tensor; 4] {
    let [q, k, v] = [q, k, v].map(|x| x.detach().copy().set_requires_grad(true));
    let out = attention(&q, &k, &v);
    let grads = grad(&[&out], &[Some(&grad_out)], &[&q, &k, &v], false).unwrap();
    let [dq, dk, dv] = <[Option<Tensor>; 3]>::try_from(grads).unwrap().map(Option::unwrap);
    [out.detach(), dq, dk, dv]
}

/// Returns the local positions of dim `dim`.
fn held(x: &Tensor, dim: i64, mesh: &Mesh) -> Tensor {
    let positions: Vec<_> = zigzag(mesh)
        .positions(x.size()[dim as usize] as usize)
        .map(|position| position as i64)
        .collect();
    x.index_select(dim, &Tensor::from_slice(&positions))
}

fn ranks(cp: u32) -> ParallelSizes {
    ParallelSizes { cp, ..ONE }
}

#[track_caller]
fn check(name: &str, shape: Shape, segments: &Segments, (kind, scale, tolerance): (Kind, f64, f64)) {
    for (cp, exchange) in [2, 3, 4].into_iter().flat_map(|cp| EXCHANGES.map(|exchange| (cp, exchange))) {
        on_mesh(ranks(cp), |mesh| {
            let whole = results(shape.tensors(kind, scale), |q, k, v| attend(q, k, v, Some(segments)).unwrap());
            let attention = ContextAttention::new(mesh.axis(Axis::Context).clone(), exchange);
            let [q, k, v, grad_out] = shape.tensors(kind, scale);
            let own = [
                held(&q, 2, &mesh),
                held(&k, 2, &mesh),
                held(&v, 2, &mesh),
                held(&grad_out, 1, &mesh),
            ];
            let got = results(own, |q, k, v| attention.attend(q, k, v, segments).unwrap());
            for ((what, dim), (got, whole)) in [("output", 1), ("dq", 2), ("dk", 2), ("dv", 2)]
                .into_iter()
                .zip(got.iter().zip(&whole))
            {
                let expected = held(whole, dim, &mesh);
                assert_eq!(got.kind(), expected.kind());
                let reach = whole.abs().max().double_value(&[]).max(1e-30);
                let off = (got - expected).abs().max().double_value(&[]) / reach;
                assert!(
                    off <= tolerance,
                    "{name}, {cp} ranks, {exchange:?}, rank {}: {what} is off by {off:e}",
                    mesh.axis(Axis::Context).rank()
                );
            }
        });
    }
}

const FP32: (Kind, f64, f64) = (Kind::Float, 1.0, 1e-6);

#[test]
fn rows_of_one_sample_match_one_rank() {
    within_limit(|| {
        for (name, shape) in [
            ("one head", [1, 1, 1, 24, 8]),
            ("as many key heads", [2, 4, 4, 48, 16]),
            ("grouped heads", [3, 8, 2, 48, 8]),
            ("a single key head", [2, 6, 1, 24, 4]),
            ("chunks of one position", [2, 2, 1, 24, 5]),
        ] {
            let segments = Segments::rows(&vec![shape[3] as usize; shape[0] as usize]);
            check(name, Shape(shape), &segments, FP32);
        }
    });
}

#[test]
fn padded_rows_match_one_rank() {
    within_limit(|| check("padded", Shape([2, 4, 2, 24, 8]), &Segments::rows(&[24, 7]), FP32));
}

#[test]
fn windows_match_one_rank() {
    within_limit(|| {
        for window in [2, 3, 5, 13, 24, 47, 100] {
            for (name, segments) in [
                ("one sample", Segments::rows(&[48, 48])),
                ("padded", Segments::rows(&[48, 7])),
                ("packed", Segments::packed(vec![vec![2, 5, 19, 20, 48], vec![9, 17, 30]])),
            ] {
                let name = format!("{name} in a window of {window}");
                check(&name, Shape([2, 4, 2, 48, 8]), &segments.windowed(Some(window)), FP32);
            }
        }
    });
}

#[test]
fn packed_rows_match_one_rank() {
    within_limit(|| {
        for (name, ends) in [
            // Segments shorter than a chunk, and over many chunks; no padding.
            ("full", vec![vec![2, 5, 19, 20, 48], vec![48]]),
            // A whole chunk of a rank may be padding.
            ("padded", vec![vec![9, 17, 30], vec![1, 3]]),
            // Empty segments.
            ("empty segment", vec![vec![11, 11, 40], vec![6, 48, 48]]),
        ] {
            check(name, Shape([2, 4, 2, 48, 8]), &Segments::packed(ends), FP32);
        }
    });
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    within_limit(|| {
        // Scores of up to several hundreds: one key dominates each query. If two are close, fp32 leaves three digits of
        // their difference.
        check(
            "large",
            Shape([2, 2, 1, 24, 64]),
            &Segments::rows(&[24, 24]),
            (Kind::Float, 15.0, 2e-3),
        );
    });
}

#[test]
fn bf16_matches_within_its_rounding() {
    within_limit(|| {
        let bf16 = (Kind::BFloat16, 1.0, 2e-2);
        check("bf16", Shape([2, 4, 2, 48, 16]), &Segments::rows(&[48, 48]), bf16);
        check("packed bf16", Shape([1, 4, 2, 48, 16]), &Segments::packed(vec![vec![20, 41]]), bf16);
    });
}

#[test]
fn queries_of_padding_give_zeros() {
    within_limit(|| {
        let shape = Shape([1, 2, 2, 24, 8]);
        for exchange in EXCHANGES {
            let shards = on_mesh(ranks(4), |mesh| {
                let attention = ContextAttention::new(mesh.axis(Axis::Context).clone(), exchange);
                let own = shape
                    .tensors(Kind::Float, 1.0)
                    .map(|x| held(&x, if x.dim() == 4 { 2 } else { 1 }, &mesh));
                // After the third position there is only padding; the first rank holds the first three positions.
                let segments = Segments::packed(vec![vec![1, 3]]);
                results(own, |q, k, v| attention.attend(q, k, v, &segments).unwrap())
            });
            for (rank, shard) in shards.iter().enumerate() {
                for x in shard {
                    let largest = x.abs().max().double_value(&[]);
                    assert!(largest.is_finite(), "rank {rank}");
                    assert_eq!(largest == 0.0, rank != 0, "rank {rank}: {largest}");
                }
            }
        }
    });
}

#[test]
fn backward_passes_may_run_in_another_order() {
    within_limit(|| {
        let shape = Shape([1, 2, 2, 16, 8]);
        let segments = Segments::rows(&[16]);
        on_mesh(ranks(4), |mesh| {
            let [q, k, v, grad_out] = shape.tensors(Kind::Float, 1.0);
            let whole = |scale: f64| {
                let tensors = [&q * scale, &k * scale, &v * scale, grad_out.shallow_clone()];
                results(tensors, |q, k, v| attend(q, k, v, Some(&segments)).unwrap())
            };
            let expected = [whole(1.0), whole(2.0)];
            let attention = ContextAttention::new(mesh.axis(Axis::Context).clone(), CpCommType::P2p);
            let inputs = |scale: f64| [&q, &k, &v].map(|x| (held(x, 2, &mesh) * scale).set_requires_grad(true));
            let calls = [1.0, 2.0].map(|scale| {
                let [q, k, v] = inputs(scale);
                let out = attention.attend(&q, &k, &v, &segments).unwrap();
                ([q, k, v], out)
            });
            // The first call runs backward first, unlike in a model.
            for (([q, k, v], out), expected) in calls.iter().zip(&expected) {
                let own = held(&grad_out, 1, &mesh);
                let grads = grad(&[out], &[Some(&own)], &[q, k, v], false).unwrap();
                for (got, whole) in grads.into_iter().map(Option::unwrap).zip(&expected[1..]) {
                    let reach = whole.abs().max().double_value(&[]);
                    let off = (got - held(whole, 2, &mesh)).abs().max().double_value(&[]) / reach;
                    assert!(off <= 1e-5, "off by {off:e}");
                }
            }
        });
    });
}
