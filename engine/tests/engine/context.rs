//! Sequences and pictures shared over ranks: a run on one rank and a run in any layout are the same run.

use crate::layout::{four_layers, mixed};
use crate::setting::{
    ONE, Samples, adapters, close, close_tensors, microbatches, mock, on_mesh, train, trainer, whole, within_limit, without_picture,
};
use neva_data::{IGNORE, IMAGE};
use neva_engine::comm::{Axis, Mesh};
use neva_engine::model::Batch;
use neva_engine::nn::Segments;
use neva_engine::parallel::zigzag;
use neva_engine::trainer::{Microbatch, Trainer};
use neva_layout::{KeysValues, SharedPictures};
use neva_schemas::{CpCommType, Finetune, LossNormalization, ParallelSizes, VisionPlacement};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 10;
const CP2: ParallelSizes = ParallelSizes { cp: 2, ..ONE };
const CP4: ParallelSizes = ParallelSizes { cp: 4, ..ONE };
const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const TP2_CP2: ParallelSizes = ParallelSizes { tp: 2, cp: 2, ..ONE };
const CP2_DP2: ParallelSizes = ParallelSizes { cp: 2, dp: 2, ..ONE };
const ALL: &[ParallelSizes] = &[CP2, CP4, TP2_CP2, CP2_DP2];

/// Positions of one picture of the small model.
const IMAGE_LEN: usize = 4;

/// A run in a layout; with sequence parallelism or not.
fn laid_out(finetune: &Finetune, sizes: ParallelSizes, sequence_parallel: bool) -> Finetune {
    let mut finetune = finetune.clone();
    let strategy = &mut finetune.trainer.strategy;
    strategy.tensor_model_parallel_size = sizes.tp;
    strategy.context_parallel_size = sizes.cp;
    strategy.sequence_parallel = sequence_parallel;
    finetune
}

/// Layouts with and, where there is a tensor axis, without sequence parallelism.
fn variants(layouts: &[ParallelSizes]) -> impl Iterator<Item = (ParallelSizes, bool)> {
    let both = |sizes: &ParallelSizes| if sizes.tp > 1 { vec![false, true] } else { vec![false] };
    layouts
        .iter()
        .flat_map(move |sizes| both(sizes).into_iter().map(|sequence_parallel| (*sizes, sequence_parallel)))
}

/// Whole gradients by name after [`Trainer::accumulate`]; a parameter that nothing reached is left out.
fn gradients(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let reached = trainer.gradients().filter_map(|(parameter, gradient)| Some((parameter, gradient?)));
    reached
        .map(|(parameter, gradient)| (parameter.spec.name.clone(), whole(parameter, gradient, trainer.mesh())))
        .collect()
}

/// Loss and gradients of one step with fresh weights.
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
    (first.loss, gradients)
}

/// [`mixed`], and rows of which most ranks have no label: the only one is the first position's, or the last one's.
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
            *label = IGNORE;
        }
    }
}

/// Losses and weights of ten steps, and the gradients of the first six with fresh weights, against one rank.
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
    for (sizes, sequence_parallel) in variants(layouts) {
        let finetune = laid_out(&finetune, sizes, sequence_parallel);
        let name = format!("{name}, {sizes:?}, sequence parallel: {sequence_parallel}");
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
fn of_the_whole_model() {
    within_limit(|| check("full", ALL, |_| {}));
}

#[test]
fn of_gathered_keys() {
    within_limit(|| {
        check("all_gather", &[CP4, TP2_CP2], |finetune| {
            finetune.trainer.strategy.cp_comm_type = CpCommType::AllGather
        })
    });
}

#[test]
fn of_adapters() {
    within_limit(|| {
        check("LoRA", ALL, |finetune| {
            adapters(finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
        })
    });
}

#[test]
fn of_adapters_on_few_linears() {
    within_limit(|| {
        // Nothing below the first layer's keys is trained; the vision encoder and the projector are, in part.
        check("single LoRA", &[CP2, TP2_CP2], |finetune| {
            adapters(finetune, &["q_proj", "o_proj", "linear_1", "fc2"])
        });
    });
}

#[test]
fn of_frozen_parts() {
    within_limit(|| {
        check("frozen vision encoder", &[CP2, TP2_CP2], |finetune| {
            finetune.model.llava_mut().freeze_vision_model = true
        });
        // In the text-only step nothing is left to train.
        check("frozen language model", &[CP2, TP2_CP2], |finetune| {
            finetune.model.llava_mut().freeze_language_model = true
        });
        check("frozen language model and projection", &[CP4], |finetune| {
            finetune.model.llava_mut().freeze_language_model = true;
            finetune.model.llava_mut().freeze_vision_projection = true;
        });
        check("language model alone", &[CP4], |finetune| {
            finetune.model.llava_mut().freeze_vision_model = true;
            finetune.model.llava_mut().freeze_vision_projection = true;
        });
    });
}

#[test]
fn of_a_tied_head_and_means_of_micro_batches() {
    within_limit(|| {
        check("tied head", &[CP2, TP2_CP2], |finetune| {
            finetune.model.llava_mut().text_config.tie_word_embeddings = true;
            finetune.trainer.loss_normalization = LossNormalization::Microbatch;
        })
    });
}

#[test]
fn of_duplicated_vision() {
    within_limit(|| {
        check("duplicated", &[CP2, TP2, TP2_CP2], |finetune| {
            finetune.trainer.strategy.vision_placement = VisionPlacement::Duplicated
        });
    });
}

/// Words and pictures; a number of positions that the last picture is cut to.
struct Content {
    words: usize,
    /// Before which of the words a picture stands.
    pictures: &'static [usize],
}

/// Rows of packed segments, cut at `s` places or padded to them; every word's target is the word itself.
fn batch(rows: &[&[Content]], s: usize) -> Microbatch {
    let (mut ids, mut labels, mut bounds, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut pictures, mut positions, mut feature_rows) = (0, Vec::new(), Vec::new());
    for (row, segments) in rows.iter().enumerate() {
        let (mut row_ids, mut ends) = (Vec::new(), Vec::new());
        for content in *segments {
            for word in 0..content.words {
                if content.pictures.contains(&word) {
                    for feature in (0..IMAGE_LEN).take(s.saturating_sub(row_ids.len())) {
                        positions.push((row * s + row_ids.len()) as i64);
                        feature_rows.push((pictures * IMAGE_LEN + feature) as i64);
                        row_ids.push(IMAGE);
                    }
                    pictures += 1;
                }
                row_ids.push(((row * 101 + row_ids.len() * 17) % 300) as i64);
            }
            row_ids.truncate(s);
            ends.push(row_ids.len() as i64);
        }
        tokens += row_ids.len() as u64;
        labels.extend(row_ids.iter().map(|id| if *id == IMAGE { IGNORE } else { *id }));
        labels.resize((row + 1) * s, IGNORE);
        ids.extend(row_ids);
        ids.resize((row + 1) * s, 0);
        bounds.push(ends);
    }
    let shape = [rows.len() as i64, s as i64];
    let pixels = Tensor::arange(pictures as i64 * 3 * 28 * 28, (Kind::Float, Device::Cpu)).sin();
    let whole = feature_rows.len() == pictures * IMAGE_LEN;
    let batch = Batch {
        input_ids_bs: Tensor::from_slice(&ids).view(shape),
        labels_bs: Tensor::from_slice(&labels).view(shape),
        segments: Segments::packed(bounds),
        pixels: (pictures > 0).then(|| pixels.view([pictures as i64, 3, 28, 28])),
        image_positions: Tensor::from_slice(&positions),
        feature_rows: (!whole).then(|| Tensor::from_slice(&feature_rows)),
    };
    Microbatch::of(batch, tokens)
}

/// One step on batches made by hand, in any layout, against one rank.
#[track_caller]
fn check_batches(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune), batches: impl Fn() -> Vec<Microbatch> + Sync) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let part = |mesh: &Mesh| batches().into_iter().map(|whole| whole.part(zigzag(mesh)).unwrap()).collect();
    let (expected_loss, expected) = first_step(&finetune, ONE, part);
    for placement in [VisionPlacement::Shared, VisionPlacement::Duplicated] {
        finetune.trainer.strategy.vision_placement = placement;
        for (sizes, sequence_parallel) in variants(layouts) {
            let (loss, gradients) = first_step(&laid_out(&finetune, sizes, sequence_parallel), sizes, part);
            let name = format!("{name}, {sizes:?}, sequence parallel: {sequence_parallel}, {placement:?}");
            close(&format!("{name}: loss"), &[loss], &[expected_loss], 1e-5);
            close_tensors(&name, &gradients, &expected, 1e-4);
        }
    }
}

const EVERY: &[ParallelSizes] = &[TP2, CP2, CP4, TP2_CP2];

/// Segments shorter than a chunk and longer than several, pictures that lie over the border of a chunk, padding.
fn packed() -> Microbatch {
    let text = |words| Content { words, pictures: &[] };
    let picture = |words, pictures| Content { words, pictures };
    batch(
        &[
            &[text(3), picture(9, &[1]), text(2), picture(7, &[2, 6])],
            &[picture(6, &[1]), text(11)],
        ],
        40,
    )
}

#[test]
fn of_packed_rows() {
    within_limit(|| {
        check_batches("packed", EVERY, |_| {}, || vec![packed()]);
        check_batches(
            "packed LoRA",
            &[CP4, TP2_CP2],
            |finetune| adapters(finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]),
            || vec![packed()],
        );
    });
}

#[test]
fn a_packed_row_is_its_samples_on_any_number_of_ranks() {
    within_limit(|| {
        let contents = || [(3, &[][..]), (9, &[1][..]), (12, &[2, 6][..])].map(|(words, pictures)| Content { words, pictures });
        // What the words are depends on their places, so only the number of the labels is the same.
        let finetune = four_layers();
        let [a, b, c] = contents();
        let packed = || batch(&[&[Content { ..a }, Content { ..b }, Content { ..c }]], 40);
        let separate = || {
            let row = packed().batch;
            let lengths = [0, 3, 16, 36];
            let rows = lengths.windows(2).map(|bounds| {
                let (start, len) = (bounds[0], bounds[1] - bounds[0]);
                let cut = |x: &Tensor, padding: i64| {
                    let padded = Tensor::full([1, 24], padding, (Kind::Int64, Device::Cpu));
                    padded.narrow(1, 0, len).copy_(&x.narrow(1, start, len));
                    padded
                };
                (cut(&row.input_ids_bs, 0), cut(&row.labels_bs, IGNORE), len as usize)
            });
            let (ids, (labels, lens)): (Vec<_>, (Vec<_>, Vec<_>)) = rows.map(|(ids, labels, len)| (ids, (labels, len))).unzip();
            let input_ids_bs = Tensor::cat(&ids, 0);
            let image_positions = input_ids_bs.eq(IMAGE).flatten(0, -1).nonzero().flatten(0, -1);
            let batch = Batch {
                input_ids_bs,
                labels_bs: Tensor::cat(&labels, 0),
                segments: Segments::rows(&lens),
                pixels: row.pixels,
                image_positions,
                feature_rows: None,
            };
            Microbatch::of(batch, 36)
        };
        let (loss, gradients) = first_step(&finetune, ONE, |_| vec![separate()]);
        for (sizes, batch) in [(ONE, true), (CP2, true), (CP4, true), (CP4, false)] {
            let (got_loss, got) = first_step(&laid_out(&finetune, sizes, false), sizes, |mesh| {
                let whole = if batch { packed() } else { separate() };
                vec![whole.part(zigzag(mesh)).unwrap()]
            });
            close(&format!("{sizes:?}: loss"), &[got_loss], &[loss], 1e-5);
            close_tensors(&format!("{sizes:?}"), &got, &gradients, 1e-4);
        }
    });
}

/// Three pictures for two, three, four ranks; two of them in one sample, the last one cut.
fn pictures() -> Microbatch {
    batch(
        &[
            &[Content {
                words: 12,
                pictures: &[1, 5],
            }],
            &[Content {
                words: 22,
                pictures: &[22 - 1],
            }],
        ],
        24,
    )
}

#[test]
fn of_pictures_that_do_not_divide() {
    within_limit(|| {
        let text = || batch(&[&[Content { words: 20, pictures: &[] }]], 24);
        let one = || batch(&[&[Content { words: 9, pictures: &[2] }]], 16);
        let all = move || vec![pictures(), text(), one()];
        assert!(pictures().batch.feature_rows.is_some(), "the last picture is cut");
        check_batches("pictures", EVERY, |_| {}, all);
        check_batches(
            "projector alone",
            EVERY,
            |finetune| {
                finetune.model.llava_mut().freeze_vision_model = true;
                finetune.model.llava_mut().freeze_language_model = true;
            },
            all,
        );
        check_batches(
            "adapters of the vision encoder",
            &[TP2_CP2],
            |finetune| adapters(finetune, &["fc1", "linear_2"]),
            all,
        );
        check_batches(
            "a frozen encoder and projector",
            &[TP2_CP2],
            |finetune| {
                finetune.model.llava_mut().freeze_vision_model = true;
                finetune.model.llava_mut().freeze_vision_projection = true;
            },
            all,
        );
    });
}

#[test]
fn of_one_rank_bit_by_bit() {
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
fn of_a_validation() {
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
        for (sizes, sequence_parallel) in variants(ALL) {
            let got = measure(&laid_out(&finetune, sizes, sequence_parallel), sizes);
            assert_eq!((got.labels, got.samples), (expected.labels, expected.samples), "{sizes:?}");
            close(&format!("{sizes:?}"), &[got.loss_sum], &[expected.loss_sum], 1e-5);
        }
    });
}

/// Bytes that went through a rank's groups in one step, by operation; those of sums of gradients are left out.
fn sent(mesh: &Mesh, group: &str, operations: &[&str]) -> u64 {
    let traffic = mesh.traffic();
    let sent = traffic.get(group).map(|traffic| {
        operations
            .iter()
            .filter_map(|operation| traffic.get(operation))
            .map(|sent| sent.bytes)
            .sum()
    });
    sent.unwrap_or(0)
}

#[test]
fn bytes_are_those_of_the_formulae() {
    within_limit(|| {
        let samples = Samples::edited(&four_layers(), |index, sample| {
            if index % 8 == 2 || index % 8 == 3 {
                without_picture(sample);
            }
        });
        for (sizes, exchange) in [
            (CP2, CpCommType::P2p),
            (CP4, CpCommType::P2p),
            (CP4, CpCommType::AllGather),
            (TP2_CP2, CpCommType::P2p),
            (CP2_DP2, CpCommType::AllGather),
        ] {
            let mut finetune = laid_out(&four_layers(), sizes, sizes.tp > 1);
            finetune.trainer.strategy.cp_comm_type = exchange;
            mock(&mut finetune).micro_batch_size = 2;
            let text = &finetune.model.llava().text_config;
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let batches = microbatches(&finetune, &samples, &mesh, 0);
                trainer.accumulate(&batches).unwrap();
                let (mut keys, mut forward, mut backward) = (0, 0, 0);
                for Microbatch { batch, .. } in &batches {
                    let size = batch.input_ids_bs.size();
                    let layer = KeysValues {
                        ranks: sizes.cp as usize,
                        b: size[0] as usize,
                        s: size[1] as usize * sizes.cp as usize,
                        heads: text.num_key_value_heads / sizes.tp as usize,
                        head_dim: text.head_dim(),
                        bytes: 4,
                    };
                    keys += text.num_hidden_layers as u64 * (layer.forward() + layer.backward());
                    let pictures = SharedPictures {
                        tensor: sizes.tp as usize,
                        context: sizes.cp as usize,
                        pictures: batch.pixels.as_ref().map_or(0, |pixels| pixels.size()[0] as usize),
                        features: IMAGE_LEN * text.hidden_size,
                        bytes: 4,
                    };
                    forward += pictures.forward();
                    backward += pictures.backward();
                }
                assert!(keys > 0 && forward > 0 && backward > 0);
                let moved = ["send", "all_gather", "reduce_scatter"];
                let mut expected = vec![("context", keys + backward)];
                if sizes.tp == 1 {
                    expected[0].1 += forward;
                } else {
                    expected.push(("sharers", forward));
                }
                for (group, bytes) in expected {
                    let got = sent(&mesh, group, &moved);
                    let off = (got as f64 - bytes as f64).abs() / bytes as f64;
                    assert!(off <= 0.01, "{sizes:?}, {exchange:?}: {group} sent {got} bytes, not {bytes}");
                }
                let on_the_ring = sent(&mesh, "context", &["send"]);
                assert_eq!(on_the_ring, if exchange == CpCommType::P2p { keys } else { 0 });
                assert_eq!(mesh.axis(Axis::Context).size(), sizes.cp as usize);
            });
        }
    });
}
