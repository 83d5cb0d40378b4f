//! What ranks send is what the formulae of neva-layout say.

use crate::setting::{ONE, Samples, lay_out, microbatches, on_mesh, small, trainer, within_limit};
use neva_layout::{Hidden, Stages, pipeline_bytes, schedule, tensor_bytes, tensor_gradient_bytes};
use neva_schemas::{Finetune, ParallelSizes, VisionPlacement};

fn four_layers() -> Finetune {
    let mut finetune = small();
    finetune.model.llava_mut().text_config.num_hidden_layers = 4;
    finetune.trainer.strategy.vision_placement = VisionPlacement::Duplicated;
    finetune
}

/// Bytes that each rank sent through its tensor and its pipeline group in one step, and those of theory.
fn check(sizes: ParallelSizes, chunks: Option<u32>, sequence_parallel: bool) {
    let mut finetune = four_layers();
    lay_out(&mut finetune, sizes);
    finetune.trainer.strategy.virtual_pipeline_model_parallel_size = chunks;
    finetune.trainer.strategy.sequence_parallel = sequence_parallel;
    let samples = Samples::of(&finetune);
    let stages = Stages::of(&finetune.trainer.strategy, 4).unwrap();
    let text = &finetune.model.llava().text_config;
    on_mesh(sizes, |mesh| {
        let mut trainer = trainer(&finetune, mesh.clone());
        let microbatches = microbatches(&finetune, &samples, &mesh, 0);
        let before = mesh.traffic();
        trainer.step(&microbatches, |peak| peak, 0).unwrap();
        let after = mesh.traffic();
        let sent = |name: &str| -> u64 {
            let sum = |traffic: &std::collections::BTreeMap<&str, neva_engine::comm::Traffic>| -> u64 {
                traffic.get(name).map_or(0, |traffic| traffic.values().map(|sent| sent.bytes).sum())
            };
            sum(&after) - sum(&before)
        };
        let stage = mesh.axis(neva_engine::comm::Axis::Pipeline).rank();
        let sections = stages.sections(stage);
        let hidden = |microbatch: &neva_engine::trainer::Microbatch| {
            let size = microbatch.batch.input_ids_bs.size();
            Hidden {
                b: size[0] as usize,
                s: size[1] as usize,
                h: text.hidden_size,
                bytes: 4,
            }
        };
        let tp = sizes.tp as usize;
        if tp > 1 {
            let of = |microbatch: &neva_engine::trainer::Microbatch| -> u64 {
                let labels = microbatch.labels as usize;
                sections
                    .iter()
                    .map(|section| tensor_bytes(tp, section, hidden(microbatch), labels, sequence_parallel))
                    .sum()
            };
            let pieces = trainer.optimizer().pieces();
            let gradients = tensor_gradient_bytes(pieces.map(|piece| (piece.spec, piece.range.len())), tp);
            near(
                &format!("{sizes:?} {sequence_parallel} tensor"),
                sent("tensor"),
                microbatches.iter().map(of).sum::<u64>() + gradients,
            );
        }
        if sizes.pp > 1 {
            let actions = schedule(stage, stages.stages(), stages.chunks(), microbatches.len());
            let parts = if sequence_parallel { tp } else { 1 };
            let expected = pipeline_bytes(&actions, &sections, hidden(&microbatches[0]), parts);
            near(&format!("{sizes:?} {chunks:?} pipeline"), sent("pipeline"), expected);
        }
    });
}

#[track_caller]
fn near(what: &str, got: u64, expected: u64) {
    let off = got.abs_diff(expected) as f64 / expected as f64;
    assert!(expected > 0 && off <= 0.01, "{what}: {got} bytes sent, {expected} by formula");
}

#[test]
fn of_tensor_and_pipeline_groups() {
    within_limit(|| {
        check(ParallelSizes { tp: 2, ..ONE }, None, false);
        check(ParallelSizes { tp: 2, ..ONE }, None, true);
        check(ParallelSizes { pp: 2, ..ONE }, None, false);
        check(ParallelSizes { pp: 2, ..ONE }, Some(2), false);
        check(ParallelSizes { tp: 2, pp: 2, ..ONE }, None, true);
    });
}
