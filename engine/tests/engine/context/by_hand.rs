//! Hand-made batches: packed rows, numbers of images that do not divide, truncated images.

use super::{CP2, CP4, IMAGE_LEN, TP2, TP2_CP2, first_step, variants};
use crate::layout::{Layout, four_layers};
use crate::setting::{ONE, adapters, close, close_tensors, within_limit};
use neva_data::{IGNORE_INDEX, IMAGE_TOKEN_INDEX};
use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::comm::Mesh;
use neva_engine::parallel::zigzag;
use neva_engine::trainer::Microbatch;
use neva_schemas::{Finetune, ParallelSizes, VisionPlacement};
use tch::{Device, Kind, Tensor};

/// Words and images of a segment.
struct Content {
    words: usize,
    /// Words before which an image is inserted.
    images: &'static [usize],
}

/// Builds rows of packed segments, truncated or padded to `s` positions; the target of every word is the word itself.
fn batch(rows: &[&[Content]], s: usize) -> Microbatch {
    let (mut ids, mut labels, mut bounds, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let (mut images, mut positions, mut feature_rows) = (0, Vec::new(), Vec::new());
    for (row, segments) in rows.iter().enumerate() {
        let (mut row_ids, mut ends) = (Vec::new(), Vec::new());
        for content in *segments {
            for word in 0..content.words {
                if content.images.contains(&word) {
                    for feature in (0..IMAGE_LEN).take(s.saturating_sub(row_ids.len())) {
                        positions.push((row * s + row_ids.len()) as i64);
                        feature_rows.push((images * IMAGE_LEN + feature) as i64);
                        row_ids.push(IMAGE_TOKEN_INDEX);
                    }
                    images += 1;
                }
                row_ids.push(((row * 101 + row_ids.len() * 17) % 300) as i64);
            }
            row_ids.truncate(s);
            ends.push(row_ids.len() as i64);
        }
        tokens += row_ids.len() as u64;
        labels.extend(row_ids.iter().map(|id| if *id == IMAGE_TOKEN_INDEX { IGNORE_INDEX } else { *id }));
        labels.resize((row + 1) * s, IGNORE_INDEX);
        ids.extend(row_ids);
        ids.resize((row + 1) * s, 0);
        bounds.push(ends);
    }
    let shape = [rows.len() as i64, s as i64];
    let pixels = Tensor::arange(images as i64 * 3 * 28 * 28, (Kind::Float, Device::Cpu)).sin();
    let whole = feature_rows.len() == images * IMAGE_LEN;
    let batch = Batch {
        input_ids_bs: Tensor::from_slice(&ids).view(shape),
        labels_bs: Tensor::from_slice(&labels).view(shape),
        segments: Segments::packed(bounds),
        pixels: (images > 0).then(|| pixels.view([images as i64, 3, 28, 28])),
        image_positions: Tensor::from_slice(&positions),
        feature_rows: (!whole).then(|| Tensor::from_slice(&feature_rows)),
    };
    Microbatch::of(batch, tokens)
}

/// Compares one step on hand-made batches in the layouts with one rank.
#[track_caller]
fn check_batches(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune), batches: impl Fn() -> Vec<Microbatch> + Sync) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let shards = |mesh: &Mesh| {
        batches()
            .into_iter()
            .map(|whole| whole.context_shard(zigzag(mesh)).unwrap())
            .collect()
    };
    let (expected_loss, expected) = first_step(&finetune, ONE, shards);
    for placement in [VisionPlacement::Shared, VisionPlacement::Duplicated] {
        finetune.trainer.strategy.vision_placement = placement;
        for layout in variants(layouts) {
            let (loss, gradients) = first_step(&layout.of(&finetune), layout.sizes, shards);
            let name = format!("{name}, {layout:?}, {placement:?}");
            close(&format!("{name}: loss"), &[loss], &[expected_loss], 1e-5);
            close_tensors(&name, &gradients, &expected, 1e-4);
        }
    }
}

const EVERY: &[ParallelSizes] = &[TP2, CP2, CP4, TP2_CP2];

/// Returns segments shorter than a chunk and longer than several, images across chunk bounds, and padding.
fn packed() -> Microbatch {
    let text = |words| Content { words, images: &[] };
    let image = |words, images| Content { words, images };
    batch(
        &[&[text(3), image(9, &[1]), text(2), image(7, &[2, 6])], &[image(6, &[1]), text(11)]],
        40,
    )
}

#[test]
fn packed_rows_match_one_rank() {
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
fn packed_rows_match_separate_rows() {
    within_limit(|| {
        let contents = || [(3, &[][..]), (9, &[1][..]), (12, &[2, 6][..])].map(|(words, images)| Content { words, images });
        // Words depend on their positions, so separate rows are cut out of the packed one.
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
                (cut(&row.input_ids_bs, 0), cut(&row.labels_bs, IGNORE_INDEX), len as usize)
            });
            let (ids, (labels, lens)): (Vec<_>, (Vec<_>, Vec<_>)) = rows.map(|(ids, labels, len)| (ids, (labels, len))).unzip();
            let input_ids_bs = Tensor::cat(&ids, 0);
            let image_positions = input_ids_bs.eq(IMAGE_TOKEN_INDEX).flatten(0, -1).nonzero().flatten(0, -1);
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
            let (got_loss, got) = first_step(&Layout::plain(sizes).of(&finetune), sizes, |mesh| {
                let whole = if batch { packed() } else { separate() };
                vec![whole.context_shard(zigzag(mesh)).unwrap()]
            });
            close(&format!("{sizes:?}: loss"), &[got_loss], &[loss], 1e-5);
            close_tensors(&format!("{sizes:?}"), &got, &gradients, 1e-4);
        }
    });
}

/// Returns a batch of three images; two of them in one sample, the last one truncated.
fn images() -> Microbatch {
    batch(
        &[
            &[Content {
                words: 12,
                images: &[1, 5],
            }],
            &[Content {
                words: 22,
                images: &[22 - 1],
            }],
        ],
        24,
    )
}

#[test]
fn numbers_of_images_that_do_not_divide_match_one_rank() {
    within_limit(|| {
        let text = || batch(&[&[Content { words: 20, images: &[] }]], 24);
        let one = || batch(&[&[Content { words: 9, images: &[2] }]], 16);
        let all = move || vec![images(), text(), one()];
        assert!(images().batch.feature_rows.is_some(), "the last image is truncated");
        check_batches("images", EVERY, |_| {}, all);
        check_batches(
            "projector alone",
            EVERY,
            |finetune| {
                finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
                finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
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
                finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
                finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
            },
            all,
        );
    });
}
