//! Tensor-parallel vision encoder and projector: a run in any layout matches one rank.

use crate::layout::{Layout, four_layers};
use crate::parity;
use crate::setting::{ONE, adapters, lora, on_mesh, trainer, within_limit};
use neva_engine::comm::Axis;
use neva_schemas::{Finetune, ParallelSizes, Peft, VisionPlacement};

const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const TP4: ParallelSizes = ParallelSizes { tp: 4, ..ONE };
const CP2: ParallelSizes = ParallelSizes { cp: 2, ..ONE };
const TP2_CP2: ParallelSizes = ParallelSizes { tp: 2, cp: 2, ..ONE };
const TP2_PP2: ParallelSizes = ParallelSizes { tp: 2, pp: 2, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

/// Returns layouts of up to four ranks, including a stage with the vision encoder alone.
fn every() -> Vec<Layout> {
    let mut layouts: Vec<_> = [TP2, TP4, CP2, TP2_CP2, TP2_PP2].map(Layout::plain).into();
    layouts.extend([TP2, TP4, TP2_CP2, TP2_PP2].map(sequence_parallel));
    layouts.extend([Layout::plain(TP2_DP2), sequence_parallel(TP2_DP2)].map(Layout::distributed));
    layouts.push(sequence_parallel(TP2_PP2).ends(Some(0), None));
    layouts
}

fn sequence_parallel(sizes: ParallelSizes) -> Layout {
    Layout::plain(sizes).sequence_parallel()
}

/// Returns a run with four layers of the language model and four heads of the vision encoder.
fn four() -> Finetune {
    let mut finetune = four_layers();
    finetune.model.as_llava_mut().unwrap().vision_config.num_attention_heads = 4;
    finetune
}

/// Returns the run in a layout with a tensor-parallel vision encoder.
fn cut(layout: Layout, finetune: &Finetune) -> Finetune {
    let mut finetune = layout.of(finetune);
    finetune.trainer.strategy.vision_placement = VisionPlacement::Cut;
    finetune
}

#[track_caller]
fn check(name: &str, layouts: &[Layout], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four();
    change(&mut finetune);
    parity::check(name, &finetune, layouts, cut);
}

#[test]
fn whole_model_matches_one_rank() {
    within_limit(|| check("full", &every(), |_| {}));
}

#[test]
fn adapters_of_the_language_model_match_one_rank() {
    within_limit(|| check("LoRA", &every(), lora));
}

#[test]
fn adapters_of_the_vision_encoder_match_one_rank() {
    within_limit(|| {
        let layouts = [Layout::plain(TP4), sequence_parallel(TP2), sequence_parallel(TP2_CP2)];
        let targets = ["q_proj", "v_proj", "out_proj", "fc1", "fc2", "linear_1", "linear_2", "linear_fc2"];
        check("adapters and the rest", &layouts, |finetune| adapters(finetune, &targets));
        check("adapters alone", &layouts, |finetune| {
            adapters(finetune, &targets);
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                lora.freeze_vision_model = true;
            }
        });
    });
}

#[test]
fn frozen_parts_match_one_rank() {
    within_limit(|| {
        let layouts = [sequence_parallel(TP2_CP2), Layout::plain(TP2_PP2)];
        check("frozen vision encoder", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true
        });
        check("frozen projector", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true
        });
        // In the text-only step no parameter has a gradient.
        check("frozen language model", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true
        });
        check("projector alone", &layouts, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
        });
    });
}

#[test]
fn each_rank_holds_its_shard_of_every_matrix() {
    within_limit(|| {
        let finetune = cut(Layout::plain(TP4), &four());
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
