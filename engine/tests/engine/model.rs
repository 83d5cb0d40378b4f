//! Forward pass: segments, padding, cut images, the choice of vision features, bf16.

use crate::setting::{ONE, Samples, difference, loaded, microbatches, small, trainer, within_limit};
use neva_data::{IGNORE_INDEX, IMAGE_TOKEN_INDEX, MergeOptions, Sequence, merge};
use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::comm::Mesh;
use neva_engine::trainer::{LoadedModel, to_device};
use neva_schemas::{FeatureSelect, Finetune, Precision, ProjectorType};
use neva_torch_ffi::grad;
use tch::{Device, Kind, Tensor};

/// Positions of one image of the small model.
const IMAGE_LEN: usize = 4;

fn pixels(count: i64) -> Tensor {
    Tensor::arange(count * 3 * 28 * 28, (Kind::Float, Device::Cpu))
        .sin()
        .view([count, 3, 28, 28])
}

/// A row of `len` words; with an image behind the first of them if asked for.
fn words(seed: i64, len: usize, image: bool) -> Vec<i64> {
    let mut ids: Vec<i64> = (0..len as i64).map(|place| (seed * 31 + place * 17) % 300).collect();
    if image {
        ids.splice(1..1, [IMAGE_TOKEN_INDEX; IMAGE_LEN]);
    }
    ids
}

/// Rows side by side, padded at the right to `s`; every word's target is the word itself.
fn batch(rows: &[Vec<i64>], s: usize, segments: Segments) -> Batch {
    let mut ids = Vec::new();
    let mut labels = Vec::new();
    for row in rows {
        assert!(row.len() <= s);
        ids.extend(row.iter().copied().chain(std::iter::repeat(0)).take(s));
        labels.extend(
            row.iter()
                .map(|id| if *id == IMAGE_TOKEN_INDEX { IGNORE_INDEX } else { *id })
                .chain(std::iter::repeat(IGNORE_INDEX))
                .take(s),
        );
    }
    let positions: Vec<i64> = ids
        .iter()
        .enumerate()
        .filter(|(_, id)| **id == IMAGE_TOKEN_INDEX)
        .map(|(place, _)| place as i64)
        .collect();
    let shape = [rows.len() as i64, s as i64];
    Batch {
        input_ids_bs: Tensor::from_slice(&ids).view(shape),
        labels_bs: Tensor::from_slice(&labels).view(shape),
        segments,
        pixels: (!positions.is_empty()).then(|| pixels((positions.len() / IMAGE_LEN) as i64)),
        image_positions: Tensor::from_slice(&positions),
        feature_rows: None,
    }
}

fn rows(rows: &[Vec<i64>], s: usize) -> Batch {
    batch(rows, s, Segments::rows(&rows.iter().map(Vec::len).collect::<Vec<_>>()))
}

fn hidden(loaded: &LoadedModel, batch: &Batch) -> Tensor {
    tch::no_grad(|| loaded.whole().unwrap().0.forward(batch, None)).unwrap()
}

/// Loss, and its gradient in every trainable parameter that it reaches.
fn loss_and_gradients(loaded: &LoadedModel, batch: &Batch) -> (f64, Vec<Option<Tensor>>) {
    let (model, head) = loaded.whole().unwrap();
    let loss = head
        .loss_sum(&model.forward(batch, None).unwrap(), &batch.labels_bs)
        .unwrap()
        .unwrap();
    let inputs: Vec<_> = loaded.parameters.trainable().map(|parameter| &parameter.tensor).collect();
    (loss.double_value(&[]), grad(&[&loss], &[None], &inputs, false).unwrap())
}

fn check_same_training(loaded: &LoadedModel, a: &Batch, b: &Batch) {
    let (loss_a, a) = loss_and_gradients(loaded, a);
    let (loss_b, b) = loss_and_gradients(loaded, b);
    assert!((loss_a - loss_b).abs() <= 1e-5 * loss_b, "losses {loss_a} and {loss_b}");
    for ((parameter, a), b) in loaded.parameters.trainable().zip(a).zip(b) {
        let (Some(a), Some(b)) = (&a, &b) else {
            panic!("{}: {} {}", parameter.spec.name, a.is_some(), b.is_some())
        };
        // Softmax does not see a key's bias: its gradient is rounding noise.
        if !parameter.spec.name.ends_with("k_proj.bias") {
            let off = difference(a, b);
            assert!(off <= 1e-4, "gradient of {} is off by {off:e}", parameter.spec.name);
        }
    }
}

/// Linears with GELU between them, as LLaVA's `build_vision_projector` and Megatron's projectors of these names.
#[test]
fn projectors_are_their_formula() {
    use ProjectorType::{Linear, McoreAffine, McoreMlp, Mlp};
    for (kind, linears) in [(Linear, 1), (McoreAffine, 1), (McoreMlp, 2), (Mlp(1), 1), (Mlp(2), 2), (Mlp(3), 3)] {
        for bias in [true, false] {
            within_limit(move || {
                let mut finetune = small();
                let model = finetune.model.as_llava_mut().unwrap();
                (model.projector_type, model.multimodal_projector_bias) = (kind, bias);
                let loaded = loaded(&finetune, &Mesh::single());
                let value = |name: String| {
                    let name = format!("model.multi_modal_projector.{name}");
                    let mut all = loaded.parameters.iter();
                    all.find(|parameter| parameter.spec.name == name)
                        .map(|parameter| parameter.tensor.detach())
                };
                let (model, _) = loaded.whole().unwrap();
                let (mut expected, got) = tch::no_grad(|| {
                    (
                        model.vision_features(&pixels(2)).unwrap(),
                        model.image_features(&pixels(2)).unwrap(),
                    )
                });
                for number in 1..=linears {
                    let weight = value(format!("linear_{number}.weight")).unwrap();
                    if number > 1 {
                        expected = expected.gelu("none");
                    }
                    expected = expected.matmul(&weight.transpose(0, 1));
                    match value(format!("linear_{number}.bias")) {
                        Some(own) if bias => expected += own,
                        own => assert_eq!(own.is_some(), bias, "{kind:?}"),
                    }
                }
                assert!(value(format!("linear_{}.weight", linears + 1)).is_none(), "{kind:?}");
                let off = difference(&got, &expected);
                assert!(off <= 1e-5, "{kind:?}, bias {bias}: off by {off:e}");
            });
        }
    }
}

#[test]
fn a_packed_row_is_its_samples() {
    within_limit(|| {
        let loaded = loaded(&small(), &Mesh::single());
        let samples = [words(1, 5, false), words(2, 4, true), words(3, 3, false)];
        let ends: Vec<_> = samples
            .iter()
            .scan(0, |end, sample| {
                *end += sample.len() as i64;
                Some(*end)
            })
            .collect();
        let length = ends[2] as usize;
        let packed = |s| batch(&[samples.concat()], s, Segments::packed(vec![ends.clone()]));
        let separate = rows(&samples, 8);
        let (expected, got) = (hidden(&loaded, &separate), hidden(&loaded, &packed(length)));
        let mut start = 0;
        for (row, end) in ends.iter().enumerate() {
            let off = difference(
                &got.select(0, 0).narrow(0, start, end - start),
                &expected.select(0, row as i64).narrow(0, 0, end - start),
            );
            assert!(off <= 1e-5, "sample {row} is off by {off:e}");
            start = *end;
        }
        check_same_training(&loaded, &packed(length), &separate);
        // Padding behind the last sample changes nothing.
        let padded = hidden(&loaded, &packed(length + 5)).narrow(1, 0, length as i64);
        assert!(difference(&padded, &got) <= 1e-6);
        check_same_training(&loaded, &packed(length + 5), &separate);
        // Without the bounds it is another text.
        let joined = hidden(&loaded, &rows(&[samples.concat()], length));
        assert!(difference(&joined, &got) > 1e-2);
    });
}

#[test]
fn positions_start_again_in_every_segment() {
    for (segments, s, expected) in [
        (Segments::rows(&[3]), 5, vec![vec![0, 1, 2, 0, 1]]),
        (Segments::rows(&[5, 2]), 5, vec![vec![0, 1, 2, 3, 4], vec![0, 1, 0, 1, 2]]),
        (Segments::packed(vec![vec![2, 3, 6]]), 7, vec![vec![0, 1, 0, 0, 1, 2, 0]]),
        (Segments::packed(vec![vec![2, 2, 4]]), 4, vec![vec![0, 1, 0, 1]]),
        (Segments::packed(vec![vec![]]), 2, vec![vec![0, 1]]),
    ] {
        assert_eq!(segments.positions(s), expected, "{segments:?}");
    }
}

#[test]
fn right_padding_changes_nothing() {
    within_limit(|| {
        let loaded = loaded(&small(), &Mesh::single());
        let (short, long) = (words(4, 6, true), words(5, 14, true));
        let both = rows(&[short.clone(), long.clone()], 18);
        let together = hidden(&loaded, &both);
        // Each row alone sees the first image, so the second row is compared through the pair only.
        let alone = hidden(&loaded, &rows(std::slice::from_ref(&short), short.len()));
        assert!(difference(&together.narrow(0, 0, 1).narrow(1, 0, short.len() as i64), &alone) <= 1e-5);
        let wider = rows(&[short, long], 30);
        assert!(difference(&hidden(&loaded, &wider).narrow(1, 0, 18), &together) <= 1e-5);
        check_same_training(&loaded, &wider, &both);
    });
}

/// Texts side by side, cut at `max_length`. Each `IMAGE_TOKEN_INDEX` is an image of its own, numbered through all rows
/// from `first`; every word's target is the next one.
fn cut(rows: &[&[i64]], max_length: usize, first: i64) -> Batch {
    let targets: Vec<Vec<i64>> = rows
        .iter()
        .map(|ids| ids[1..].iter().copied().chain([IGNORE_INDEX]).collect())
        .collect();
    let rows: Vec<_> = rows
        .iter()
        .zip(&targets)
        .map(|(ids, labels)| Sequence {
            name: "row",
            ids,
            labels,
            num_images: ids.iter().filter(|id| **id == IMAGE_TOKEN_INDEX).count(),
        })
        .collect();
    let options = MergeOptions {
        image_seq_len: IMAGE_LEN,
        max_length,
        row_multiple: 1,
        fixed_length: false,
        packed: false,
    };
    let tokens = merge(&rows, &options).unwrap();
    let kept: Vec<_> = tokens.images.iter().map(|span| first + span.image as i64).collect();
    let pixels = pixels(4).index_select(0, &Tensor::from_slice(&kept)).flatten(0, -1);
    let batch = neva_data::Batch {
        tokens,
        pixels: pixels.try_into().unwrap(),
        pixel_shape: [kept.len(), 3, 28, 28],
        ..neva_data::Batch::default()
    };
    to_device(&batch, IMAGE_LEN, Device::Cpu).unwrap()
}

#[test]
fn a_text_is_cut_within_its_image() {
    within_limit(|| {
        let loaded = loaded(&small(), &Mesh::single());
        let ids = [5, IMAGE_TOKEN_INDEX, 6, 7, IMAGE_TOKEN_INDEX, 8, 9];
        let whole = hidden(&loaded, &cut(&[&ids], 100, 0));
        let length = whole.size()[1];
        assert_eq!(length, 13);
        // Through every position: of the words, and of both images.
        for at in 1..length {
            let batch = cut(&[&ids], at as usize, 0);
            let within_image = (2..5).contains(&at) || (8..11).contains(&at);
            assert_eq!(batch.feature_rows.is_some(), within_image, "{at} positions");
            let got = hidden(&loaded, &batch);
            assert_eq!(got.size()[1], at);
            let off = difference(&got, &whole.narrow(1, 0, at));
            assert!(off <= 1e-5, "{at} positions: off by {off:e}");
        }
    });
}

#[test]
fn a_cut_image_shifts_none_behind_it() {
    within_limit(|| {
        let loaded = loaded(&small(), &Mesh::single());
        // The first row ends within its image, the second keeps its own whole.
        let (first, second) = ([5, 6, 7, IMAGE_TOKEN_INDEX, 8], [9, IMAGE_TOKEN_INDEX, 10]);
        let batch = cut(&[&first, &second], 6, 0);
        let got = hidden(&loaded, &batch);
        assert_eq!(got.size()[..2], [2, 6]);
        // The comparison below would notice features that moved up by the one that was cut off.
        let moved = Batch {
            feature_rows: Some(Tensor::arange(7, (Kind::Int64, Device::Cpu))),
            ..batch
        };
        assert!(difference(&hidden(&loaded, &moved), &got) > 1e-3);
        for (row, ids) in [&first[..], &second[..]].into_iter().enumerate() {
            let alone = hidden(&loaded, &cut(&[ids], 100, row as i64)).narrow(1, 0, 6);
            let off = difference(&got.narrow(0, row as i64, 1), &alone);
            assert!(off <= 1e-5, "row {row} is off by {off:e}");
        }
    });
}

fn features(change: impl FnOnce(&mut Finetune)) -> Tensor {
    let mut finetune = small();
    change(&mut finetune);
    let loaded = loaded(&finetune, &Mesh::single());
    tch::no_grad(|| loaded.whole().unwrap().0.image_features(&pixels(2))).unwrap()
}

#[test]
fn vision_features_come_from_the_chosen_layer() {
    within_limit(|| {
        let of = |layer: i64| features(|finetune| finetune.model.as_llava_mut().unwrap().vision_feature_layer = layer.into());
        // The encoder has 3 layers: hidden states 0 (the embedding's) to 3.
        let layers: Vec<_> = (0..=3).map(of).collect();
        for (layer, expected) in layers.iter().enumerate() {
            assert_eq!(expected.size(), [2, IMAGE_LEN as i64, 64]);
            assert!(of(layer as i64 - 4).equal(expected), "{layer} and {}", layer as i64 - 4);
            for other in &layers[..layer] {
                assert!(difference(other, expected) > 1e-4);
            }
        }
        let full = features(|finetune| finetune.model.as_llava_mut().unwrap().vision_feature_select_strategy = FeatureSelect::Full);
        assert_eq!(full.size(), [2, 1 + IMAGE_LEN as i64, 64]);
        // The products of the projector have one row more, which may change their last bits.
        assert!(
            difference(&full.narrow(1, 1, IMAGE_LEN as i64), &layers[2]) < 1e-6,
            "`default` is `full` without the class token"
        );
    });
}

#[test]
fn every_choice_of_features_trains() {
    within_limit(|| {
        for (layer, select) in [
            (-1, FeatureSelect::Default),
            (0, FeatureSelect::Default),
            (2, FeatureSelect::Full),
            (-4, FeatureSelect::Full),
        ] {
            let mut finetune = small();
            let model = finetune.model.as_llava_mut().unwrap();
            (model.vision_feature_layer, model.vision_feature_select_strategy) = (layer.into(), select);
            let samples = Samples::of(&finetune);
            let mut trainer = trainer(&finetune, Mesh::single());
            let batches = microbatches(&finetune, &samples, &Mesh::single(), 0);
            let losses: Vec<_> = (0..8)
                .map(|step| trainer.step(&batches, |_| 5e-3, step).unwrap().loss.unwrap())
                .collect();
            assert!(losses[7] < 0.9 * losses[0], "{layer} {select:?}: {losses:?}");
            // What is behind the chosen state is no parameter of the optimizer.
            let used = finetune.model.as_llava().unwrap().vision_layers_used();
            for (parameter, gradient) in trainer.gradients() {
                assert!(gradient.is_some(), "{layer} {select:?}: {} was not reached", parameter.spec.name);
                assert!(!parameter.spec.name.contains(&format!("vision_tower.encoder.layers.{used}.")));
            }
        }
    });
}

#[test]
fn bf16_follows_fp32() {
    within_limit(|| {
        let losses = |precision| {
            let mut finetune = small();
            finetune.trainer.mixed_precision_mut().precision = precision;
            let samples = Samples::of(&finetune);
            let mut trainer = trainer(&finetune, Mesh::single());
            let batches = microbatches(&finetune, &samples, &Mesh::single(), 0);
            (0..15)
                .map(|step| trainer.step(&batches, |_| 3e-3, step).unwrap().loss.unwrap())
                .collect::<Vec<_>>()
        };
        let (fp32, bf16) = (losses(Precision::Fp32), losses(Precision::Bf16Mixed));
        for (step, (fp32, bf16)) in fp32.iter().zip(&bf16).enumerate() {
            assert!((fp32 - bf16).abs() <= 0.05 * fp32, "step {step}: {bf16} in bf16, {fp32} in fp32");
        }
        assert!(bf16[14] < 0.7 * bf16[0], "{bf16:?}");
        assert_ne!(fp32, bf16);
    });
}

#[test]
fn logits_leave_the_padding_of_a_cut_vocabulary_out() {
    within_limit(|| {
        let mut finetune = small();
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 330;
        let row = rows(&[words(6, 9, true)], 13);
        let of = |sizes| {
            crate::setting::on_mesh(sizes, |mesh| {
                tch::no_grad(|| trainer(&finetune, mesh).logits(&rows(&[words(6, 9, true)], 13))).unwrap()
            })
        };
        assert_eq!(row.input_ids_bs.size(), [1, 13]);
        let expected = of(ONE).remove(0);
        assert_eq!(expected.size(), [1, 13, 330]);
        for logits in of(neva_schemas::ParallelSizes { tp: 2, ..ONE }) {
            assert!(difference(&logits, &expected) <= 1e-5);
        }
    });
}
