//! The printed steps of a run, and its experiment.

use std::collections::BTreeSet;

use neva_tests::{Ended, small::small, wait_for};

use crate::space::Space;

/// Returns the numbers of the steps in an output, in order. Lines of experiments begin with the name of the task.
fn numbers(output: &str) -> Vec<u32> {
    let lines = output.lines().filter_map(|line| line.split_once("step "));
    lines.filter_map(|(_, rest)| rest.split('/').next()?.parse().ok()).collect()
}

/// Checks that each step up to the last was printed once, and returns the last.
#[track_caller]
pub(crate) fn check_once(ended: &Ended) -> u32 {
    let numbers = numbers(&ended.stdout);
    let all: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(numbers.len(), all.len(), "a line was printed twice: {numbers:?}");
    let last = all.last().copied().unwrap_or_default();
    assert_eq!(all.len(), last as usize, "lines are missing: {numbers:?}\n{}", ended.stderr);
    last
}

/// Checks that each of `steps` steps was printed once.
#[track_caller]
pub(crate) fn check_whole(ended: &Ended, steps: u32) {
    assert_eq!(check_once(ended), steps, "{}\n{}", ended.stdout, ended.stderr);
}

/// Returns the arguments of a run that prints each of its steps.
pub(crate) fn printing(space: &Space<'_>, name: &str, steps: u32) -> Vec<String> {
    let max = format!("finetune.trainer.max_steps={steps}");
    small(&space.runs(), name, &[&max, "finetune.trainer.log_every_n_steps=1"])
}

/// Writes an experiment of one fine-tune that prints each of its steps, and returns its file.
pub(crate) fn experiment(space: &Space<'_>, name: &str, steps: u32) -> String {
    let text = format!(
        "name: {name}\ntasks:\n  train:\n    task:\n      _factory_: neva_tiny\n      finetune:\n        \
         trainer: {{max_steps: {steps}, log_every_n_steps: 1, threads_per_rank: 1, val_check_interval: null}}\n        model:\n          \
         text_config: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2}}\n          \
         vision_config: {{hidden_size: 32, intermediate_size: 48, image_size: 28}}\n        \
         data: {{seq_length: 16, micro_batch_size: 2, global_batch_size: 4}}\n        log: {{tensorboard: false}}\n"
    );
    space.write(&format!("{name}.experiment.yaml"), &text)
}

/// Returns the status of the experiment `name` once it contains `text`.
pub(crate) fn status(space: &Space<'_>, name: &str, text: &str) -> String {
    wait_for(text, || {
        let status = space.run(&["experiment", "status", name]);
        status.stdout.contains(text).then_some(status.stdout)
    })
}
