//! A step depends on its global batch only, not on its microbatches or data workers.

use crate::setting::{bits, close, lora, mock, run, small, within_limit};
use neva_schemas::Finetune;

/// Returns the losses of six steps for each of `variants`.
fn losses(change: fn(&mut Finetune), variants: &[u64], apply: fn(&mut Finetune, u64)) -> Vec<Vec<f64>> {
    let folder = tempfile::tempdir().unwrap();
    let of = |variant: &u64| {
        let mut finetune = small();
        change(&mut finetune);
        apply(&mut finetune, *variant);
        let losses = run(&finetune, &folder.path().join(variant.to_string())).unwrap().losses;
        assert_eq!(losses.len(), 6);
        losses
    };
    variants.iter().map(of).collect()
}

#[test]
fn microbatches_accumulate_to_the_same_losses() {
    within_limit(|| {
        let change: [fn(&mut Finetune); 2] = [|_| {}, lora];
        for change in change {
            let of = losses(change, &[8, 4, 2], |finetune, size| mock(finetune).micro_batch_size = size);
            close("2 microbatches", &of[1], &of[0], 1e-6);
            close("4 microbatches", &of[2], &of[0], 1e-6);
        }
    });
}

#[test]
fn workers_do_not_change_batches() {
    within_limit(|| {
        let change: [fn(&mut Finetune); 2] = [|_| {}, lora];
        for change in change {
            let of = losses(change, &[0, 1, 4], |finetune, workers| {
                mock(finetune).num_workers = workers as usize
            });
            assert_eq!(bits(&of[1]), bits(&of[0]), "one worker");
            assert_eq!(bits(&of[2]), bits(&of[0]), "four workers");
        }
    });
}
