//! Any model in any layout that passes validation matches one rank.
//!
//! With `NEVA_SOAK_LAYOUTS=1000` in the environment, 1000 random cases run, different ones each time. A failure prints the
//! smallest failing case as Rust code: add it to [`PINNED`].

mod case;
mod draw;

use crate::layout::Layout;
use crate::setting::{ONE, Trained, close, close_tensors, train, within_limit};
use case::{AdapterOptions, Batches, Case, Encoder, Family, Options, Text, Trains, Vision};
use draw::cases;
use neva_schemas::CpCommType::P2p;
use neva_schemas::VisionPlacement::Cut;
use neva_schemas::{ParallelSizes, ProjectorType};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Number of cases in every test run.
const CASES: u32 = 32;

const STEPS: u64 = 3;

/// Fixed cases: eight ranks with all options, and cases that once failed.
const PINNED: &[Case] = &[Case {
    text: Text {
        family: Family::Llama {
            bias: false,
            scaled: false,
        },
        alone: false,
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
        encoder: Encoder::Clip,
        second: None,
        projector: ProjectorType::Mlp(2),
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
    options: Options {
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
        adapters: AdapterOptions {
            dropout: 20,
            post: false,
            rslora: true,
            dora: true,
            quantized: false,
        },
    },
    batches: Batches {
        length: 32,
        micro_batch_size: 4,
        count: 3,
        mean_of_means: false,
        packed: true,
        without_image: 0b1111_0010,
        two_images: 0b1001,
        without_labels: 0b0110_0100,
        short: 0b1010_1001,
    },
}];

/// Trains on one rank and in the layout, and compares.
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
fn pinned_cases_match_one_rank() {
    for case in PINNED {
        within_limit(|| check(*case));
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of this test")]
fn generated_cases_match_one_rank() {
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
