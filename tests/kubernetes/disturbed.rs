//! Runs that something disturbs. They have no last step, since nobody knows how many steps a disturbance takes.

use std::collections::BTreeMap;

use neva_tests::{
    finish,
    small::{losses, newest, small, steps, words},
    start, wait_for,
};

use crate::{
    space::{Pod, Space},
    training::{ONE_BY_FOUR, TWO_BY_TWO},
    watched::{Watched, stop},
};

const ENDLESS: [&str; 1] = ["finetune.trainer.max_steps=1000000"];
/// Steps before a disturbance, and after it.
const SOME: usize = 20;

/// What a disturbance does to the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// They go on.
    None,
    /// They start again from a checkpoint.
    Resume,
}

/// Trains, disturbs pod 1 after some steps, waits for the effect and some steps more, stops the run, and returns its losses.
pub(crate) fn disturbed(space: &Space<'_>, name: &str, effect: Effect, disturb: impl FnOnce(&Pod)) -> BTreeMap<u64, u64> {
    let executor = space.executor("kubernetes", "termination_grace_period_seconds: 20\nretries: 1");
    let arguments = small(&space.runs(), name, &[&ENDLESS[..], &TWO_BY_TWO].concat());
    let launcher = Watched::start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || space.newest(name));
    wait_for("steps", || (space.steps(&run) > SOME).then_some(()));
    let pods = space.pods();
    disturb(pods.iter().find(|pod| pod.index == "1").expect("the second pod"));
    if effect == Effect::Resume {
        let log = run.join("logs/rank0.log");
        wait_for("a resumed run", || space.files.read(&log).contains("resumes from").then_some(()));
    }
    let before = space.steps(&run);
    wait_for("steps after it", || (space.steps(&run) > before + SOME).then_some(()));
    let ended = launcher.stop().with_code(1);
    let has_resumed = ended.stdout.contains("resumes from");
    assert_eq!(has_resumed, effect == Effect::Resume, "{name}: {}", ended.stdout);
    space.delete_jobs();
    let losses = space.losses(&run);
    assert!(losses.len() > before, "{name}");
    losses
}

/// Trains on this machine for as many steps as the longest of `runs`, and compares all losses.
#[track_caller]
pub(crate) fn check_losses(space: &Space<'_>, runs: &[(&str, BTreeMap<u64, u64>)]) {
    let longest = runs.iter().map(|(_, losses)| losses.len()).max().unwrap_or_default();
    let dir = space.dir.path().join("undisturbed");
    let arguments = small(&dir, "run", &[&ENDLESS[..], &ONE_BY_FOUR].concat());
    let launcher = start(space.neva_run(&words(&arguments, &[])));
    let run = wait_for("a run", || newest(&dir, "run"));
    wait_for("steps", || (steps(&run) >= longest).then_some(()));
    stop(&launcher);
    let _ = finish(launcher).with_code(1);
    let expected = losses(&run);
    for (name, losses) in runs {
        let same: BTreeMap<_, _> = expected.iter().take(losses.len()).map(|(step, loss)| (*step, *loss)).collect();
        assert_eq!(losses, &same, "{name}");
    }
}
