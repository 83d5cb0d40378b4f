//! Traffic of ranks matches the formulas of neva-layout.

use crate::layout::four_layers;
use crate::setting::{ONE, Samples, lay_out, microbatches, on_mesh, trainer, within_limit, without_image};
use neva_engine::comm::{Mesh, Traffic};
use neva_engine::trainer::Microbatch;
use neva_layout::{Hidden, SharedImages, Stages, TensorParallelImages, pipeline_bytes, schedule, tensor_bytes, tensor_gradient_bytes};
use neva_schemas::{Finetune, LlavaModel, ParallelSizes, ProjectorType, VisionModelType, VisionPlacement};

/// Returns a run without traffic of images.
fn duplicated_vision() -> Finetune {
    let mut finetune = four_layers();
    finetune.trainer.strategy.vision_placement = VisionPlacement::Duplicated;
    finetune
}

/// Compares the bytes that each rank sends in its tensor- and pipeline-parallel group in one step with the formulas.
fn check(sizes: ParallelSizes, chunks: Option<u32>, sequence_parallel: bool) {
    let mut finetune = duplicated_vision();
    lay_out(&mut finetune, sizes);
    finetune.trainer.strategy.virtual_pipeline_model_parallel_size = chunks;
    finetune.trainer.strategy.sequence_parallel = sequence_parallel;
    let samples = Samples::of(&finetune);
    let stages = Stages::of(&finetune.trainer.strategy, 4).unwrap();
    let text = &finetune.model.as_llava().unwrap().text_config;
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
        let chunk_specs = stages.chunk_specs(stage);
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
                chunk_specs
                    .iter()
                    .map(|chunk| tensor_bytes(tp, chunk, hidden(microbatch), labels, sequence_parallel))
                    .sum()
            };
            let shards = trainer.optimizer().shards();
            let gradients = tensor_gradient_bytes(shards.map(|shard| (shard.spec, shard.range.len())), tp);
            near(
                &format!("{sizes:?} {sequence_parallel} tensor"),
                sent("tensor"),
                microbatches.iter().map(of).sum::<u64>() + gradients,
            );
        }
        if sizes.pp > 1 {
            let actions = schedule(stage, stages.stages(), stages.chunks(), microbatches.len());
            let shards = if sequence_parallel { tp } else { 1 };
            let expected = pipeline_bytes(&actions, &chunk_specs, hidden(&microbatches[0]), shards);
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
fn tensor_and_pipeline_groups_match_the_formulas() {
    within_limit(|| {
        check(ParallelSizes { tp: 2, ..ONE }, None, false);
        check(ParallelSizes { tp: 2, ..ONE }, None, true);
        check(ParallelSizes { pp: 2, ..ONE }, None, false);
        check(ParallelSizes { pp: 2, ..ONE }, Some(2), false);
        check(ParallelSizes { tp: 2, pp: 2, ..ONE }, None, true);
    });
}

/// Returns the bytes that a rank has sent in a group.
fn sent(mesh: &Mesh, group: &str) -> u64 {
    let sum = |traffic: &Traffic| traffic.values().map(|sent| sent.bytes).sum();
    mesh.traffic().get(group).map_or(0, sum)
}

/// Bytes that a rank sends in its tensor- and context-parallel group in one step, without tensor-parallel sums of
/// gradients; and the images of each microbatch.
struct Step {
    tensor: u64,
    context: u64,
    images: Vec<usize>,
}

fn step(finetune: &Finetune, sizes: ParallelSizes) -> Vec<Step> {
    let samples = Samples::edited(finetune, |index, sample| {
        if matches!(index % 8, 2 | 3) {
            without_image(sample);
        }
    });
    on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let shards = trainer.optimizer().shards().map(|shard| (shard.spec, shard.range.len()));
        let gradients = tensor_gradient_bytes(shards, sizes.tp as usize);
        let batches = microbatches(finetune, &samples, &mesh, 0);
        let before = ["tensor", "context"].map(|group| sent(&mesh, group));
        trainer.step(&batches, |peak| peak, 0).unwrap();
        let [tensor, context] = ["tensor", "context"].map(|group| sent(&mesh, group));
        let of = |microbatch: &Microbatch| microbatch.batch.pixels.as_ref().map_or(0, |pixels| pixels.size()[0] as usize);
        Step {
            tensor: tensor - before[0] - gradients,
            context: context - before[1],
            images: batches.iter().map(of).collect(),
        }
    })
}

/// Compares the traffic that a tensor-parallel vision encoder adds to a duplicated one with the formulas, to the byte.
fn check_cut(sizes: ParallelSizes, sequence_parallel: bool, frozen: bool) {
    check_cut_of(sizes, sequence_parallel, frozen, |_| {});
}

/// Compares the same traffic for a changed model.
fn check_cut_of(sizes: ParallelSizes, sequence_parallel: bool, frozen: bool, change: impl FnOnce(&mut LlavaModel)) {
    let mut finetune = duplicated_vision();
    change(finetune.model.as_llava_mut().unwrap());
    lay_out(&mut finetune, sizes);
    finetune.trainer.strategy.sequence_parallel = sequence_parallel;
    finetune.model.as_llava_mut().unwrap().freeze_vision_model = frozen;
    finetune.model.as_llava_mut().unwrap().vision_config.num_attention_heads = 4;
    let alone = step(&finetune, sizes);
    finetune.trainer.strategy.vision_placement = VisionPlacement::Cut;
    let together = step(&finetune, sizes);
    let model = finetune.model.as_llava().unwrap();
    let (width, positions) = (model.vision_config.hidden_size, model.image_seq_length());
    let features = positions * model.text_config.hidden_size;
    let mut seen = 0;
    for (rank, (alone, together)) in alone.iter().zip(&together).enumerate() {
        let (mut tensor, mut context) = (0, 0);
        for images in &alone.images {
            let shared = SharedImages {
                tensor: 1,
                context: sizes.cp as usize,
                images: *images,
                features,
                bytes: 4,
            };
            let cut = TensorParallelImages {
                tensor: sizes.tp as usize,
                images: shared.images_per_rank(),
                layers: model.vision_layers_used(),
                hidden: (positions + 1) * width,
                selected: positions * width,
                features,
                pairs: model.projector_type.linears() / 2,
                normed: if model.vision_config.use_qk_norm { positions + 1 } else { 0 },
                bytes: 4,
            };
            // Pipeline ranks vary slowest; the first stage has the vision encoder.
            if rank < (sizes.tp * sizes.cp * sizes.dp) as usize {
                tensor += cut.forward() + if frozen { cut.backward_of_projector() } else { cut.backward() };
                context += shared.forward() + shared.backward();
                seen += images;
            }
        }
        let name = format!("{sizes:?}, sequence parallel: {sequence_parallel}, frozen: {frozen}, rank {rank}");
        assert_eq!(together.tensor - alone.tensor, tensor, "{name}: tensor");
        assert_eq!(together.context - alone.context, context, "{name}: context");
    }
    assert!(seen > 0);
}

#[test]
fn a_tensor_parallel_vision_encoder_matches_the_formulas() {
    within_limit(|| {
        let tp = |tp| ParallelSizes { tp, ..ONE };
        check_cut(tp(2), false, false);
        check_cut(tp(4), false, false);
        check_cut(tp(2), true, false);
        check_cut(tp(2), true, true);
        check_cut(ParallelSizes { dp: 2, ..tp(2) }, false, false);
        check_cut(ParallelSizes { cp: 2, ..tp(2) }, true, false);
        check_cut(ParallelSizes { pp: 2, ..tp(2) }, true, false);
        let intern = |model: &mut LlavaModel| {
            model.vision_config.model_type = VisionModelType::InternVit;
            model.vision_config.use_qk_norm = true;
            model.projector_type = ProjectorType::Mlp(4);
        };
        for frozen in [false, true] {
            check_cut_of(tp(2), false, frozen, intern);
        }
    });
}
