//! What ranks send is what the formulae of neva-layout say.

use crate::setting::{ONE, Samples, lay_out, microbatches, on_mesh, small, trainer, within_limit, without_picture};
use neva_engine::comm::{Mesh, Traffic};
use neva_engine::trainer::Microbatch;
use neva_layout::{CutPictures, Hidden, SharedPictures, Stages, pipeline_bytes, schedule, tensor_bytes, tensor_gradient_bytes};
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

/// The bytes that a rank sends through a group so far.
fn sent(mesh: &Mesh, group: &str) -> u64 {
    let sum = |traffic: &Traffic| traffic.values().map(|sent| sent.bytes).sum();
    mesh.traffic().get(group).map_or(0, sum)
}

/// What a rank sends through its tensor and its context group in one step, tensor-parallel sums of parameters' gradients
/// left out; and the pictures of each micro-batch.
struct Step {
    tensor: u64,
    context: u64,
    pictures: Vec<usize>,
}

fn step(finetune: &Finetune, sizes: ParallelSizes) -> Vec<Step> {
    let samples = Samples::edited(finetune, |index, sample| {
        if matches!(index % 8, 2 | 3) {
            without_picture(sample);
        }
    });
    on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let pieces = trainer.optimizer().pieces().map(|piece| (piece.spec, piece.range.len()));
        let gradients = tensor_gradient_bytes(pieces, sizes.tp as usize);
        let batches = microbatches(finetune, &samples, &mesh, 0);
        let before = ["tensor", "context"].map(|group| sent(&mesh, group));
        trainer.step(&batches, |peak| peak, 0).unwrap();
        let [tensor, context] = ["tensor", "context"].map(|group| sent(&mesh, group));
        let of = |microbatch: &Microbatch| microbatch.batch.pixels.as_ref().map_or(0, |pixels| pixels.size()[0] as usize);
        Step {
            tensor: tensor - before[0] - gradients,
            context: context - before[1],
            pictures: batches.iter().map(of).collect(),
        }
    })
}

/// What a vision encoder that is cut adds to one that every rank runs by itself, to the byte.
fn check_cut(sizes: ParallelSizes, sequence_parallel: bool, frozen: bool) {
    let mut finetune = four_layers();
    lay_out(&mut finetune, sizes);
    finetune.trainer.strategy.sequence_parallel = sequence_parallel;
    finetune.model.llava_mut().freeze_vision_model = frozen;
    finetune.model.llava_mut().vision_config.num_attention_heads = 4;
    let alone = step(&finetune, sizes);
    finetune.trainer.strategy.vision_placement = VisionPlacement::Cut;
    let together = step(&finetune, sizes);
    let model = finetune.model.llava();
    let (width, positions) = (model.vision_config.hidden_size, model.image_seq_length());
    let features = positions * model.text_config.hidden_size;
    let mut seen = 0;
    for (rank, (alone, together)) in alone.iter().zip(&together).enumerate() {
        let (mut tensor, mut context) = (0, 0);
        for pictures in &alone.pictures {
            let shared = SharedPictures {
                tensor: 1,
                context: sizes.cp as usize,
                pictures: *pictures,
                features,
                bytes: 4,
            };
            let cut = CutPictures {
                tensor: sizes.tp as usize,
                pictures: shared.each(),
                layers: model.vision_layers_used(),
                hidden: (positions + 1) * width,
                selected: positions * width,
                features,
                bytes: 4,
            };
            // Pipeline ranks vary slowest; the first stage has the vision encoder.
            if rank < (sizes.tp * sizes.cp * sizes.dp) as usize {
                tensor += cut.forward() + if frozen { 0 } else { cut.backward() };
                context += shared.forward() + shared.backward();
                seen += pictures;
            }
        }
        let name = format!("{sizes:?}, sequence parallel: {sequence_parallel}, frozen: {frozen}, rank {rank}");
        assert_eq!(together.tensor - alone.tensor, tensor, "{name}: tensor");
        assert_eq!(together.context - alone.context, context, "{name}: context");
    }
    assert!(seen > 0);
}

#[test]
fn of_a_vision_encoder_that_is_cut() {
    within_limit(|| {
        let tp = |tp| ParallelSizes { tp, ..ONE };
        check_cut(tp(2), false, false);
        check_cut(tp(4), false, false);
        check_cut(tp(2), true, false);
        check_cut(tp(2), true, true);
        check_cut(ParallelSizes { dp: 2, ..tp(2) }, false, false);
        check_cut(ParallelSizes { cp: 2, ..tp(2) }, true, false);
        check_cut(ParallelSizes { pp: 2, ..tp(2) }, true, false);
    });
}
