//! Sequences and images split among ranks: a run in any layout matches one rank.

mod by_hand;
mod traffic;

use crate::layout::{Layout, four_layers, mixed};
use crate::setting::{ONE, Samples, adapters, close, close_tensors, gradients, microbatches, on_mesh, train, trainer, within_limit};
use neva_data::IGNORE_INDEX;
use neva_engine::comm::Mesh;
use neva_engine::trainer::Microbatch;
use neva_schemas::{CpCommType, Finetune, LossNormalization, ParallelSizes, VisionPlacement};
use std::collections::BTreeMap;
use tch::Tensor;

const STEPS: u64 = 10;
const CP2: ParallelSizes = ParallelSizes { cp: 2, ..ONE };
const CP4: ParallelSizes = ParallelSizes { cp: 4, ..ONE };
const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const TP2_CP2: ParallelSizes = ParallelSizes { tp: 2, cp: 2, ..ONE };
const CP2_DP2: ParallelSizes = ParallelSizes { cp: 2, dp: 2, ..ONE };
const ALL: &[ParallelSizes] = &[CP2, CP4, TP2_CP2, CP2_DP2];

/// Number of positions of one image in the small model.
const IMAGE_LEN: usize = 4;

/// Returns the layouts without and, if tensor-parallel, also with sequence parallelism.
fn variants(layouts: &[ParallelSizes]) -> impl Iterator<Item = Layout> {
    layouts.iter().flat_map(|sizes| {
        let plain = Layout::plain(*sizes);
        let shared = (sizes.tp > 1).then(|| plain.sequence_parallel());
        [plain].into_iter().chain(shared)
    })
}

/// Returns loss and gradients of one step with fresh weights.
fn first_step(
    finetune: &Finetune,
    sizes: ParallelSizes,
    batches: impl Fn(&Mesh) -> Vec<Microbatch> + Sync,
) -> (f64, BTreeMap<String, Tensor>) {
    let mut ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let report = trainer.accumulate(&batches(&mesh)).unwrap();
        (report, gradients(&trainer))
    });
    let (first, gradients) = ranks.remove(0);
    for (report, _) in &ranks {
        assert_eq!(report, &first, "ranks report different steps");
    }
    (first.loss.unwrap(), gradients)
}

/// Applies [`mixed`], and leaves a single label, at the first or the last position, in some rows, so that most ranks have
/// none.
fn sparse(index: usize, sample: &mut neva_data::Sample) {
    mixed(index, sample);
    match (index / 8, index % 8) {
        (_, 5) => keep_label(sample, |place, _| place == 0),
        (4, 0) => keep_label(sample, |place, last| place == last),
        _ => {}
    }
}

fn keep_label(sample: &mut neva_data::Sample, keep: impl Fn(usize, usize) -> bool) {
    let last = sample.labels.len() - 1;
    for (place, label) in sample.labels.iter_mut().enumerate() {
        if !keep(place, last) {
            *label = IGNORE_INDEX;
        }
    }
}

/// Compares losses and weights of ten steps, and gradients of three steps with fresh weights, with one rank.
#[track_caller]
fn check(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let samples = Samples::edited(&finetune, sparse);
    let expected = train(&finetune, &samples, ONE, STEPS);
    assert!(expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{name}");
    let step_of =
        |finetune: &Finetune, sizes| [0, 3, 5].map(|step| first_step(finetune, sizes, |mesh| microbatches(finetune, &samples, mesh, step)));
    let expected_steps = step_of(&finetune, ONE);
    for layout in variants(layouts) {
        let (finetune, sizes) = (layout.of(&finetune), layout.sizes);
        let name = format!("{name}, {layout:?}");
        for ((loss, gradients), (expected_loss, expected)) in step_of(&finetune, sizes).iter().zip(&expected_steps) {
            close(&format!("{name}: loss of one step"), &[*loss], &[*expected_loss], 1e-5);
            close_tensors(&format!("{name}: gradients"), gradients, expected, 1e-4);
        }
        let got = train(&finetune, &samples, sizes, STEPS);
        close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
        close_tensors(&name, &got.weights, &expected.weights, 1e-4);
    }
}

#[test]
fn whole_model_matches_one_rank() {
    within_limit(|| check("full", ALL, |_| {}));
}

#[test]
fn all_gather_of_keys_matches_one_rank() {
    within_limit(|| {
        check("all_gather", &[CP4, TP2_CP2], |finetune| {
            finetune.trainer.strategy.cp_comm_type = CpCommType::AllGather
        })
    });
}

#[test]
fn adapters_match_one_rank() {
    within_limit(|| {
        check("LoRA", ALL, |finetune| {
            adapters(finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
        })
    });
}

#[test]
fn adapters_on_few_linears_match_one_rank() {
    within_limit(|| {
        // The first layer's keys are not trained; parts of the vision encoder and the projector are.
        check("single LoRA", &[CP2, TP2_CP2], |finetune| {
            adapters(finetune, &["q_proj", "o_proj", "linear_1", "fc2"])
        });
    });
}

#[test]
fn frozen_parts_match_one_rank() {
    within_limit(|| {
        check("frozen vision encoder", &[CP2, TP2_CP2], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true
        });
        // In the text-only step no parameter has a gradient.
        check("frozen language model", &[CP2, TP2_CP2], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true
        });
        check("frozen language model and projection", &[CP4], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
        });
        check("language model alone", &[CP4], |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
        });
    });
}

#[test]
fn a_tied_head_and_microbatch_means_match_one_rank() {
    within_limit(|| {
        check("tied head", &[CP2, TP2_CP2], |finetune| {
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true;
            finetune.trainer.loss_normalization = LossNormalization::Microbatch;
        })
    });
}

#[test]
fn duplicated_vision_matches_one_rank() {
    within_limit(|| {
        check("duplicated", &[CP2, TP2, TP2_CP2], |finetune| {
            finetune.trainer.strategy.vision_placement = VisionPlacement::Duplicated
        });
    });
}

#[test]
fn vision_placements_on_one_rank_give_the_same_bits() {
    within_limit(|| {
        let run = |placement| {
            let mut finetune = four_layers();
            finetune.trainer.strategy.vision_placement = placement;
            let trained = train(&finetune, &Samples::edited(&finetune, sparse), ONE, 3);
            (trained.losses, trained.weights)
        };
        let (shared, duplicated) = (run(VisionPlacement::Shared), run(VisionPlacement::Duplicated));
        assert_eq!(shared.0, duplicated.0);
        for (name, weight) in &shared.1 {
            assert!(weight.equal(&duplicated.1[name]), "{name}");
        }
    });
}

#[test]
fn validation_matches_one_rank() {
    within_limit(|| {
        let finetune = four_layers();
        let samples = Samples::edited(&finetune, sparse);
        let measure = |finetune: &Finetune, sizes| {
            let ranks = on_mesh(sizes, |mesh| {
                let batches = (0..3).flat_map(|step| microbatches(finetune, &samples, &mesh, step));
                trainer(finetune, mesh.clone())
                    .evaluate(batches.map(|batch| Ok((batch, 2))))
                    .unwrap()
            });
            ranks.iter().for_each(|rank| assert_eq!(rank, &ranks[0]));
            ranks[0]
        };
        let expected = measure(&finetune, ONE);
        for layout in variants(ALL) {
            let got = measure(&layout.of(&finetune), layout.sizes);
            assert_eq!((got.labels, got.samples), (expected.labels, expected.samples), "{layout:?}");
            close(&format!("{layout:?}"), &[got.loss_sum], &[expected.loss_sum], 1e-5);
        }
    });
}
