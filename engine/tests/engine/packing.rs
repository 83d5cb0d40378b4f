//! Packed samples train like samples in separate rows.

use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::setting::{ONE, Samples, close, close_tensors, lora, microbatches, mock, on_mesh, train, within_limit};
use neva_schemas::Finetune;

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
