//! A run that is repeatedly stopped and moved to another layout equals an uninterrupted run on one rank.

use crate::distributed::ddp;
use crate::setting::{ONE, STOP, close, custom, lora, run_on, small, within_limit};
use neva_engine::{Callback, Flow, Registry, Result, RunView, StopRequest};
use neva_schemas::{Finetune, LrScheduler, ParallelSizes, RunReport};
use neva_track::StepMetrics;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// Requests a stop after every second step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EveryOther {}

impl Callback for EveryOther {
    fn on_step_end(&mut self, run: RunView<'_>, _: &StepMetrics) -> Result<Flow> {
        if run.progress.steps_done.is_multiple_of(2) {
            STOP.with_borrow(StopRequest::stop);
        }
        Ok(Flow::Continue)
    }
}

fn on(finetune: &Finetune, sizes: ParallelSizes, run_dir: &Path) -> RunReport {
    let registry = Registry::builtin().callback::<EveryOther>("tests::EveryOther");
    let mut reports: Vec<_> = run_on(finetune, run_dir, sizes, &registry)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    reports.swap_remove(0)
}

/// Layouts of two steps each, and whether the optimizer is distributed.
const JOURNEY: [(ParallelSizes, bool); 4] = [
    (ParallelSizes { tp: 2, pp: 2, ..ONE }, false),
    (ParallelSizes { dp: 4, ..ONE }, true),
    (ONE, false),
    (ParallelSizes { cp: 2, ..ONE }, false),
];

fn check(change: impl FnOnce(&mut Finetune)) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    // The number of padding rows differs between layouts.
    (text.num_hidden_layers, text.vocab_size) = (4, 200);
    // Every step has its own learning rate.
    *finetune.optim.lr_scheduler_mut() = LrScheduler::CosineAnnealing {
        warmup_steps: 2,
        warmup_ratio: None,
        constant_steps: 0,
        min_lr: 2e-7,
    };
    finetune.trainer.max_steps = Some(8);
    change(&mut finetune);
    let expected = on(&finetune, ONE, &folder.path().join("whole"));
    assert_eq!(expected.losses.len(), 8);

    finetune.trainer.callbacks = vec![custom("tests::EveryOther", json!({}))];
    let mut losses = Vec::new();
    for (leg, (sizes, shared)) in JOURNEY.into_iter().enumerate() {
        ddp(&mut finetune, shared, shared);
        let report = on(&finetune, sizes, &folder.path().join(leg.to_string()));
        assert_eq!((report.steps, report.losses.len()), (2 * leg as u64 + 2, 2), "{sizes:?}");
        losses.extend(report.losses);
        finetune.resume.resume_from_path = report.checkpoint;
    }
    close("loss", &losses, &expected.losses, 1e-5);
}

#[test]
fn of_the_whole_model_changes_no_loss() {
    within_limit(|| check(|_| {}));
}

#[test]
fn of_adapters_changes_no_loss() {
    within_limit(|| check(lora));
}
