//! Any model in any layout that the run's own validation lets through trains as one rank does.
//!
//! `NEVA_SOAK_LAYOUTS=1000` in the environment tries so many cases, other ones each time. A failure prints the smallest
//! case that fails, as Rust: it belongs into [`PINNED`].

mod case;
mod draw;

use crate::layout::Layout;
use crate::setting::{ONE, Trained, close, close_tensors, train, within_limit};
use case::{Batches, Case, Shares, Text, Trains, Vision};
use draw::cases;
use neva_schemas::CpCommType::P2p;
use neva_schemas::ParallelSizes;
use neva_schemas::VisionPlacement::Cut;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Cases that every run of the tests tries.
const CASES: u32 = 32;

const STEPS: u64 = 3;

/// Cases that are tried whatever is drawn: eight ranks of everything, and those that once failed.
const PINNED: &[Case] = &[Case {
    text: Text {
        layers: 4,
        hidden: 48,
        heads: 6,
        key_heads: 2,
        head_dim: Some(4),
        intermediate: 36,
        vocabulary: 67,
        tied: true,
    },
    vision: Vision {
        layers: 3,
        heads: 2,
        intermediate: 40,
        feature_layer: -2,
        class_token: true,
    },
    layout: Layout {
        sizes: ParallelSizes {
            tp: 2,
            cp: 2,
            dp: 1,
            pp: 2,
        },
        chunks: Some(2),
        sequence_parallel: true,
        ends: [None, None],
        distributed: true,
    },
    shares: Shares {
        exchange: P2p,
        placement: Cut,
        overlap_grad_reduce: true,
        overlap_param_gather: true,
        bucket_size: 1000,
        recompute: Some(0),
    },
    trains: Trains {
        frozen: [false, false, false],
        targets: [true, true, false, false, false, false, false, true, true, false, true, true],
        replaced: [false, true],
    },
    batches: Batches {
        length: 32,
        micro_batch_size: 4,
        count: 3,
        mean_of_means: false,
        packed: true,
        without_picture: 0b1111_0010,
        two_pictures: 0b1001,
        without_labels: 0b0110_0100,
        short: 0b1010_1001,
    },
}];

/// Trains alone and in the layout.
fn check(case: Case) {
    assert_eq!(case.errors(), [""; 0]);
    let (alone, laid_out) = (case.alone(), case.laid_out());
    let samples = case.samples(&alone);
    let expected = train(&alone, &samples, ONE, STEPS);
    let Trained { losses, norms, weights } = train(&laid_out, &samples, case.layout.sizes, STEPS);
    close("loss", &losses, &expected.losses, 1e-5);
    close("gradient norm", &norms, &expected.norms, 1e-4);
    close_tensors("weights", &weights, &expected.weights, 1e-4);
}

#[test]
fn that_is_pinned_trains_as_one_rank_does() {
    for case in PINNED {
        within_limit(|| check(*case));
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn that_is_let_through_trains_as_one_rank_does() {
    let soak = std::env::var("NEVA_SOAK_LAYOUTS").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: soak.unwrap_or(CASES),
        max_shrink_time: 300_000,
        max_local_rejects: u32::MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = match soak {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let outcome = runner.run(&cases(), |case| {
        within_limit(move || check(case));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
