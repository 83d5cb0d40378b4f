//! Packed samples train like samples in separate rows.

use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::setting::{
    ONE, Samples, Trained, close, close_tensors, gradients, lay_out, lora, microbatches, mock, on_mesh, on_rank, small, train, trainer,
    within_limit, without_image, without_labels,
};
use neva_data::{
    Batch, Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, MeasuredLengths, Order, PackedRows, PackingOptions, Row, RowStart, RowStream,
};
use neva_engine::trainer::{batch_sampler, merge_options};
use neva_schemas::Finetune;
use std::sync::Arc;

const STEPS: u64 = 10;

/// Positions of one sample.
const LENGTH: usize = 24;

/// Returns global batches of 8 samples in microbatches of `each`, packed or not.
fn packed(finetune: &Finetune, each: u64, use_packed_sequence: bool) -> Finetune {
    let mut finetune = finetune.clone();
    let data = mock(&mut finetune);
    (data.micro_batch_size, data.use_packed_sequence) = (each, use_packed_sequence);
    data.seq_length = if use_packed_sequence { LENGTH * each as usize } else { LENGTH };
    finetune
}

#[track_caller]
fn check(name: &str, layouts: &[Layout], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = four_layers();
    change(&mut finetune);
    let alone = packed(&finetune, 2, false);
    let samples = Samples::edited(&alone, mixed);
    let expected = train(&alone, &samples, ONE, STEPS);
    assert!(expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{name}");
    for layout in layouts {
        for each in [2, 4] {
            let together = packed(&layout.of(&finetune), each, true);
            let got = train(&together, &Samples::edited(&together, mixed), layout.sizes, STEPS);
            let name = format!("{name}, {each} samples, {layout:?}");
            close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
            close_tensors(&name, &got.weights, &expected.weights, 1e-4);
        }
    }
}

#[test]
fn trains_like_separate_rows() {
    let tp2 = Layout::plain(ONE).over(2, 1);
    let layouts = [
        Layout::plain(ONE),
        Layout::plain(ONE).over(1, 2).distributed(),
        tp2.sequence_parallel(),
        Layout::plain(ONE).context(2),
        pipeline(2),
        pipeline(2).chunks(2).over(2, 1).context(2).sequence_parallel(),
    ];
    within_limit(move || {
        check("full", &layouts, |_| {});
        check("LoRA", &layouts[2..], lora);
    });
}

#[test]
fn leaves_no_padding_between_samples() {
    within_limit(|| {
        let finetune = four_layers();
        let rows = |use_packed_sequence| {
            let finetune = packed(&finetune, 4, use_packed_sequence);
            let samples = Samples::edited(&finetune, mixed);
            on_mesh(ONE, |mesh| {
                let batches = microbatches(&finetune, &samples, &mesh, 0);
                batches
                    .iter()
                    .map(|part| (part.batch.input_ids_bs.size(), part.tokens))
                    .collect::<Vec<_>>()
            })
            .remove(0)
        };
        // Two of the first four samples have no image. An image takes four positions in place of one token.
        let text = LENGTH as i64 - 4;
        let positions = 2 * LENGTH as u64 + 2 * text as u64;
        assert_eq!(rows(false)[0], (vec![4, LENGTH as i64], positions));
        assert_eq!(rows(true)[0], (vec![1, positions as i64], positions));
    });
}

/// Makes samples of several images, none, one token, no label.
fn varied(index: usize, sample: &mut neva_data::Sample) {
    match index % 6 {
        0 => {
            sample.ids.insert(0, IMAGE_TOKEN_INDEX);
            sample.labels.insert(0, IGNORE_INDEX);
            let again = sample.images[0].clone();
            sample.images.push(again);
        }
        1 => without_image(sample),
        2 => {
            without_image(sample);
            sample.ids.truncate(2);
            sample.labels.truncate(2);
        }
        3 => without_labels(sample),
        _ => {
            sample.ids.truncate(LENGTH - index % 11);
            sample.labels.truncate(LENGTH - index % 11);
        }
    }
}

/// Returns loss and gradients of the first global batch of packed rows, or of the same samples in rows of their own.
fn buffered(finetune: &Finetune, layout: Layout, packed: bool) -> Trained {
    let mut finetune = layout.of(finetune);
    lay_out(&mut finetune, layout.sizes);
    let data = mock(&mut finetune);
    (data.global_batch_size, data.micro_batch_size, data.seq_length) = (8, 2, 32);
    data.num_train_samples = 96;
    let samples = Samples::edited(&finetune, varied);
    let dataset: Arc<dyn Dataset> = Arc::new(samples);
    let options = merge_options(&finetune);
    let mut ranks = on_mesh(layout.sizes, |mesh| {
        let order = Order {
            seed: 3,
            len: 96,
            shuffle: true,
        };
        let packing = PackingOptions {
            buffer: 48,
            row_length: 64,
            max_length: 32,
            skips_longer: false,
        };
        let start = RowStart {
            row: 0,
            sample: 0,
            settings: 0,
        };
        let lengths = Arc::new(MeasuredLengths::new(dataset.clone(), options.image_seq_len, 1));
        let rows = PackedRows::endless(lengths, Arc::new(order), packing, start);
        let sampler = batch_sampler(&finetune, &mesh);
        let batch = |n| {
            let packed: Vec<Row> = sampler.positions(0, n).map(|row| rows.row(row).unwrap().unwrap()).collect();
            packed
        };
        let own: Vec<Vec<Row>> = (0..sampler.num_microbatches()).map(batch).collect();
        let alone = |rows: &Vec<Row>| -> Vec<Row> {
            let samples = rows.iter().flat_map(|row| &row.samples);
            samples
                .map(|sample| Row {
                    samples: vec![*sample],
                    left_out: 0,
                })
                .collect()
        };
        let batches: Vec<_> = own
            .iter()
            .map(|rows| match packed {
                true => {
                    let samples: usize = rows.iter().map(|row| row.samples.len()).sum();
                    assert!(samples > rows.len(), "several samples share a row");
                    Batch::from_rows(&*dataset, rows, &options, Some(64))
                }
                false => Batch::from_rows(&*dataset, &alone(rows), &options, None),
            })
            .map(|batch| on_rank(&batch.unwrap().unwrap(), options.image_seq_len, &mesh))
            .collect();
        let mut trainer = trainer(&finetune, mesh);
        let report = trainer.accumulate(&batches).unwrap();
        Trained {
            losses: vec![report.loss.unwrap()],
            norms: vec![report.grad_norm.unwrap()],
            weights: gradients(&trainer),
        }
    });
    let mut first = ranks.remove(0);
    for other in ranks {
        assert_eq!(other.losses, first.losses, "ranks report different losses");
        // Each stage of a pipeline has its own.
        first.weights.extend(other.weights);
    }
    first
}

#[test]
fn rows_of_a_buffer_have_the_loss_and_the_gradients_of_their_samples() {
    let layouts = [
        Layout::plain(ONE),
        Layout::plain(ONE).over(1, 2),
        Layout::plain(ONE).context(2),
        pipeline(2),
        Layout::plain(ONE).over(2, 1).sequence_parallel(),
        pipeline(2).chunks(2).over(2, 1).context(2).sequence_parallel(),
    ];
    within_limit(move || {
        let mut finetune = small();
        finetune.model = four_layers().model;
        let expected = buffered(&finetune, Layout::plain(ONE), false);
        assert!(expected.weights.len() > 20);
        for layout in layouts {
            let got = buffered(&finetune, layout, true);
            let name = format!("{layout:?}");
            close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
            close(&format!("{name}: norm"), &got.norms, &expected.norms, 1e-5);
            close_tensors(&name, &got.weights, &expected.weights, 1e-5);
        }
    });
}
