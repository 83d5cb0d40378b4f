//! The end of a run by its own rules: steps, epochs, time, and early stopping.

use crate::setting::{bits, json_lines, mock, names, run, small, validate, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::optim::learning_rate;
use neva_schemas::{CallbackConfig, EarlyStoppingConfig, LrScheduler, METRICS_FILE, MetricMode, Period};
use std::collections::BTreeSet;

/// Checks that a run on `samples` samples in batches of 8 ends after `expect` steps.
fn check_length(samples: u64, max_steps: Option<u64>, max_epochs: Option<u64>, expect: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    mock(&mut finetune).num_train_samples = samples;
    (finetune.trainer.max_steps, finetune.trainer.max_epochs) = (max_steps, max_epochs);
    let schedule = LrScheduler::CosineWithWarmup {
        warmup_steps: 1,
        warmup_ratio: None,
    };
    *finetune.optim.lr_scheduler_mut() = schedule.clone();
    let report = run(&finetune, folder.path()).unwrap();
    let what = format!("{samples} samples, {max_steps:?} steps, {max_epochs:?} epochs");
    assert_eq!((report.steps, report.ended_early), (expect, None), "{what}");
    let progress = CheckpointFolder::open(&report.checkpoint.unwrap()).unwrap().state.progress;
    assert_eq!(
        (progress.total_steps, progress.consumed_samples, progress.finished),
        (expect, 8 * expect, true),
        "{what}"
    );
    let rates = json_lines(&folder.path().join(METRICS_FILE))
        .into_iter()
        .map(|line| line["lr"].as_f64().unwrap());
    let expected = (0..expect).map(|step| learning_rate(&schedule, *finetune.optim.lr(), expect, step));
    assert_eq!(rates.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{what}");
}

#[test]
fn epochs_and_steps_whichever_is_first() {
    within_limit(|| {
        check_length(16, None, Some(2), 4);
        // The second batch of an epoch is filled from the next epoch, also in the last one.
        check_length(12, None, Some(1), 2);
        check_length(12, None, Some(2), 3);
        check_length(3, None, Some(4), 2);
        check_length(12, Some(2), Some(2), 2);
        check_length(12, Some(9), Some(2), 3);
        check_length(12, Some(5), None, 5);
    });
}

#[test]
fn max_time_ends_the_run() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let mut finetune = small();
        finetune.trainer.max_steps = Some(1_000_000);
        finetune.trainer.max_time = Some(Period::seconds(1));
        let report = run(&finetune, &first).unwrap();
        assert_eq!((report.stopped, report.ended_early.as_deref()), (None, Some("max_time is over")));
        assert!(report.steps > 0 && report.steps < 1_000_000);
        let checkpoint = report.checkpoint.unwrap();
        assert_eq!(CheckpointFolder::open(&checkpoint).unwrap().steps_done(), report.steps);
        // The run is complete, and starting it again does nothing. Another run may resume from it.
        let again = run(&finetune, &first).unwrap();
        assert_eq!(
            (again.steps, again.losses.len(), again.checkpoint.as_ref()),
            (report.steps, 0, Some(&checkpoint))
        );
        finetune.trainer.max_steps = Some(report.steps + 2);
        finetune.trainer.max_time = Some(Period::seconds(600));
        finetune.resume.resume_from_path = Some(checkpoint);
        let more = run(&finetune, &second).unwrap();
        assert_eq!((more.losses.len(), more.ended_early), (2, None));
    });
}

#[test]
fn checkpoints_are_saved_by_time() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.trainer.max_steps = Some(1_000_000);
        finetune.trainer.max_time = Some(Period::seconds(4));
        let ckpt = &mut finetune.log.ckpt;
        (ckpt.train_time_interval, ckpt.save_top_k) = (Some(Period::seconds(1)), -1);
        run(&finetune, folder.path()).unwrap();
        let saved = names(&folder.path().join("checkpoints")).len();
        assert!((2..=4).contains(&saved), "{saved}: one a second in between, one at the end");
    });
}

/// Returns the observation at which a run stops, given all observations of a run that does not stop.
fn expected_look(values: &[f64], mode: MetricMode, patience: u64, min_delta: f64) -> usize {
    let better = |value: f64, best: f64| match mode {
        MetricMode::Min => value < best - min_delta,
        MetricMode::Max => value > best + min_delta,
    };
    let (mut best, mut waited) = (values[0], 0);
    for (look, value) in values.iter().enumerate().skip(1) {
        if better(*value, best) {
            (best, waited) = (*value, 0);
        } else {
            waited += 1;
        }
        if waited == patience {
            return look;
        }
    }
    panic!("{values:?} improve forever");
}

/// Checks that a run stops at the expected step, also after an interruption at an earlier step.
fn check_early(monitor: &str, mode: MetricMode, patience: u64, min_delta: f64) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    finetune.trainer.max_steps = Some(16);
    let ckpt = &mut finetune.log.ckpt;
    (ckpt.every_n_train_steps, ckpt.save_top_k) = (Some(1), -1);
    validate(&mut finetune, 2, 4);
    let whole = run(&finetune, &folder.path().join("whole")).unwrap();
    let lines = json_lines(&folder.path().join("whole").join(METRICS_FILE));
    let looks = lines
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line.get(monitor)?.as_f64()?)));
    let (at, values): (Vec<_>, Vec<_>) = looks.unzip();
    let steps = 1 + at[expected_look(&values, mode, patience, min_delta)];
    assert!(steps < 16, "{monitor}: {values:?} never stop");

    finetune.trainer.callbacks = vec![CallbackConfig::EarlyStopping(EarlyStoppingConfig {
        monitor: monitor.into(),
        mode,
        patience,
        min_delta,
    })];
    let stopped = run(&finetune, &folder.path().join("stopped")).unwrap();
    assert_eq!(stopped.steps, steps, "{monitor}: {values:?}");
    assert_eq!(bits(&stopped.losses), bits(&whole.losses)[..steps as usize]);
    let reason = stopped.ended_early.unwrap();
    let expected = format!("early stopping: `{monitor}` did not improve {patience} times in a row (best ");
    assert!(reason.starts_with(&expected), "{reason}");
    let finished = CheckpointFolder::open(&stopped.checkpoint.unwrap())
        .unwrap()
        .state
        .progress
        .finished;
    assert!(finished, "{monitor}");
    // After the first step, halfway, and one observation before the end.
    for at in BTreeSet::from([1, steps / 2, steps - 1]) {
        let checkpoints = folder.path().join("stopped/checkpoints");
        let is_it = |name: &String| name.contains(&format!("step={}-consumed", at - 1));
        let name = names(&checkpoints).into_iter().find(is_it).unwrap();
        finetune.resume.resume_from_path = Some(checkpoints.join(name));
        let resumed = run(&finetune, &folder.path().join(format!("from {at}"))).unwrap();
        assert_eq!(
            (resumed.steps, resumed.ended_early.as_ref()),
            (steps, Some(&reason)),
            "{monitor}, from {at}"
        );
    }
}

#[test]
fn a_metric_that_no_longer_improves_ends_the_run() {
    within_limit(|| {
        check_early("reduced_train_loss", MetricMode::Min, 1, 0.0);
        check_early("reduced_train_loss", MetricMode::Min, 3, 0.05);
        check_early("val_loss", MetricMode::Min, 2, 0.0);
        check_early("val_loss", MetricMode::Max, 3, 0.0);
        check_early("grad_norm", MetricMode::Max, 2, 1e6);
    });
}
