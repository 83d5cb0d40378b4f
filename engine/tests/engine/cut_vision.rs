//! A vision encoder and a projector that are cut over the tensor axis: a run on one rank and a run in any layout are the
//! same run.

use crate::distributed::ddp;
use crate::setting::{
    ONE, Samples, adapters, close, close_tensors, gradients, lay_out, lora, microbatches, on_mesh, small, train, trainer, within_limit,
    without_labels, without_picture,
};
use neva_engine::comm::Axis;
use neva_schemas::{Finetune, ParallelSizes, Peft, VisionPlacement};
use std::collections::BTreeMap;
use tch::Tensor;

const STEPS: u64 = 10;

/// A layout, and how it differs from Megatron's plain one.
#[derive(Debug, Clone, Copy)]
struct Layout {
    sizes: ParallelSizes,
    sequence_parallel: bool,
    distributed: bool,
    /// Layers of the language model beside the vision encoder.
    first: Option<u32>,
}

impl Layout {
    fn lay_out(self, finetune: &Finetune) -> Finetune {
        let mut finetune = finetune.clone();
        lay_out(&mut finetune, self.sizes);
        let strategy = &mut finetune.trainer.strategy;
        strategy.vision_placement = VisionPlacement::Cut;
        strategy.sequence_parallel = self.sequence_parallel;
        strategy.num_layers_in_first_pipeline_stage = self.first;
        ddp(&mut finetune, self.distributed, self.distributed);
        finetune
    }
}

fn plain(sizes: ParallelSizes) -> Layout {
    Layout {
        sizes,
        sequence_parallel: false,
        distributed: false,
        first: None,
    }
}

fn sequence_parallel(sizes: ParallelSizes) -> Layout {
    Layout {
        sequence_parallel: true,
        ..plain(sizes)
    }
}

const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const TP4: ParallelSizes = ParallelSizes { tp: 4, ..ONE };
const CP2: ParallelSizes = ParallelSizes { cp: 2, ..ONE };
const TP2_CP2: ParallelSizes = ParallelSizes { tp: 2, cp: 2, ..ONE };
const TP2_PP2: ParallelSizes = ParallelSizes { tp: 2, pp: 2, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

/// Every layout of up to four ranks, and a stage for the vision encoder alone.
fn every() -> Vec<Layout> {
    let all = [TP2, TP4, CP2, TP2_CP2, TP2_PP2];
    let mut layouts: Vec<_> = all.into_iter().map(plain).collect();
    layouts.extend([TP2, TP4, TP2_CP2, TP2_PP2].map(sequence_parallel));
    for layout in [plain(TP2_DP2), sequence_parallel(TP2_DP2)] {
        layouts.push(Layout {
            distributed: true,
            ..layout
        });
    }
    layouts.push(Layout {
        first: Some(0),
        ..sequence_parallel(TP2_PP2)
    });
    layouts
}

/// Four layers of the language model, four heads of the vision encoder.
fn four() -> Finetune {
    let mut finetune = small();
    let model = finetune.model.llava_mut();
    (model.text_config.num_hidden_layers, model.vision_config.num_attention_heads) = (4, 4);
    finetune
}

/// With global batches of 8 and micro-batches of 2: a micro-batch without a picture in each step, one step of nothing
/// else, and samples without a label.
fn mixed(index: usize, sample: &mut neva_data::Sample) {
    let (step, within) = (index / 8, index % 8);
    if step == 3 || matches!(within, 2 | 3) {
        without_picture(sample);
    }
    if matches!((step, within), (5, 2 | 3) | (_, 4 | 6 | 7)) {
        without_labels(sample);
    }
}

/// Loss, norm of the gradients and whole gradients of a step with the weights that `before` steps leave.
fn step(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, before: u64) -> (f64, f64, BTreeMap<String, Tensor>) {
    let ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        for step in 0..before {
            trainer
                .step(&microbatches(finetune, samples, &mesh, step), |peak| peak, step)
                .unwrap();
        }
        let report = trainer.accumulate(&microbatches(finetune, samples, &mesh, before)).unwrap();
        (report.loss, report.grad_norm, gradients(&trainer))
    });
    let (loss, norm) = (ranks[0].0, ranks[0].1);
    let mut all = BTreeMap::new();
    for (other_loss, other_norm, gradients) in ranks {
        assert_eq!((other_loss, other_norm), (loss, norm), "ranks report different steps");
        all.extend(gradients);
    }
    (loss, norm, all)
}

/// Losses, norms and gradients of the first and the sixth step, losses and weights of ten steps, against one rank.
#[track_caller]
fn check(name: &str, layouts: &[Layout], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four();
    change(&mut finetune);
    ddp(&mut finetune, false, false);
    let samples = Samples::edited(&finetune, mixed);
    let steps = |finetune: &Finetune, sizes| [0, 5].map(|before| step(finetune, &samples, sizes, before));
    let expected_steps = steps(&finetune, ONE);
    let expected = train(&finetune, &samples, ONE, STEPS);
    assert!(expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{name}");
    for layout in layouts {
        let (finetune, sizes) = (layout.lay_out(&finetune), layout.sizes);
        let name = format!("{name}, {layout:?}");
        for ((loss, norm, gradients), (expected_loss, expected_norm, expected)) in steps(&finetune, sizes).iter().zip(&expected_steps) {
            let expected_numbers = [*expected_loss, *expected_norm];
            close(
                &format!("{name}: loss and norm of a step"),
                &[*loss, *norm],
                &expected_numbers,
                1e-5,
            );
            close_tensors(&format!("{name}: gradients"), gradients, expected, 1e-4);
        }
        let got = train(&finetune, &samples, sizes, STEPS);
        close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
        close_tensors(&name, &got.weights, &expected.weights, 1e-4);
    }
}

#[test]
fn trains_as_one_rank_does() {
    within_limit(|| check("full", &every(), |_| {}));
}

#[test]
fn trains_beside_adapters_as_one_rank_does() {
    within_limit(|| check("LoRA", &every(), lora));
}

#[test]
fn trains_through_adapters_of_its_own_as_one_rank_does() {
    within_limit(|| {
        let layouts = [plain(TP4), sequence_parallel(TP2), sequence_parallel(TP2_CP2)];
        let targets = ["q_proj", "v_proj", "out_proj", "fc1", "fc2", "linear_1", "linear_2", "linear_fc2"];
        check("adapters and the rest", &layouts, |finetune| adapters(finetune, &targets));
        check("adapters alone", &layouts, |finetune| {
            adapters(finetune, &targets);
            finetune.model.llava_mut().freeze_vision_projection = true;
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                lora.freeze_vision_model = true;
            }
        });
    });
}

#[test]
fn leaves_frozen_parts_alone() {
    within_limit(|| {
        let layouts = [sequence_parallel(TP2_CP2), plain(TP2_PP2)];
        check("frozen vision encoder", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_vision_model = true
        });
        check("frozen projector", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_vision_projection = true
        });
        // In the text-only step nothing is left to train.
        check("frozen language model", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_language_model = true
        });
        check("projector alone", &layouts, |finetune| {
            finetune.model.llava_mut().freeze_language_model = true;
            finetune.model.llava_mut().freeze_vision_model = true;
        });
    });
}

#[test]
fn holds_its_share_of_every_matrix() {
    within_limit(|| {
        let finetune = plain(TP4).lay_out(&four());
        on_mesh(TP4, |mesh| {
            let trainer = trainer(&finetune, mesh.clone());
            let shape = |name: &str| trainer.parameters().get(name).unwrap().tensor.size();
            let layer = |name: &str| shape(&format!("model.vision_tower.encoder.layers.0.{name}"));
            for name in ["q_proj", "k_proj", "v_proj"] {
                assert_eq!(layer(&format!("self_attn.{name}.weight")), [8, 32]);
                assert_eq!(layer(&format!("self_attn.{name}.bias")), [8]);
            }
            assert_eq!(layer("self_attn.out_proj.weight"), [32, 8]);
            assert_eq!(layer("self_attn.out_proj.bias"), [32]);
            assert_eq!((layer("mlp.fc1.weight"), layer("mlp.fc1.bias")), (vec![16, 32], vec![16]));
            assert_eq!((layer("mlp.fc2.weight"), layer("mlp.fc2.bias")), (vec![32, 16], vec![32]));
            assert_eq!(layer("layer_norm1.weight"), [32]);
            let projector = |name: &str| shape(&format!("model.multi_modal_projector.{name}"));
            assert_eq!((projector("linear_1.weight"), projector("linear_1.bias")), (vec![16, 32], vec![16]));
            assert_eq!((projector("linear_2.weight"), projector("linear_2.bias")), (vec![64, 16], vec![64]));
            assert_eq!(mesh.axis(Axis::Tensor).size(), 4);
        });
    });
}
