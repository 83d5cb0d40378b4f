//! Ranks that share one model and are killed or stopped: all end, the first cause is named, and the run goes on bit for
//! bit.

use crate::killed::{Moments, arguments, children, losses, new_run, saving};
use neva_tests::{DEADLINE, finish, finish_within, neva_run, start, wait_for};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds that a rank waits for another where one is killed or stopped.
const PATIENCE: u64 = 20;
/// The same where none is.
const LONG: u64 = 300;

/// Ranks that are killed or stopped. `NEVA_SOAK_FAULTS` asks for more.
const FAULTS: u64 = 4;

const STRATEGY: &str = "finetune.trainer.strategy";

/// A launcher of four ranks: two stages of two tensor-parallel ranks each.
fn four_ranks(dir: &Path, steps: u64, patience: u64) -> Command {
    let steps = format!("finetune.trainer.max_steps={steps}");
    let patience = format!("finetune.trainer.timeout_s={patience}");
    let tensor = format!("{STRATEGY}.tensor_model_parallel_size=2");
    let pipeline = format!("{STRATEGY}.pipeline_model_parallel_size=2");
    let settings = [
        "num_gpus_per_node=4",
        &steps,
        "finetune.log.ckpt.every_n_train_steps=5",
        &patience,
        &tensor,
        &pipeline,
    ];
    neva_run(&arguments(dir, &settings).iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own switch; and a fault at a random moment waits for nothing"
)]
fn a_rank_that_is_killed_or_stopped_ends_all_and_costs_nothing() {
    let faults = std::env::var("NEVA_SOAK_FAULTS")
        .ok()
        .and_then(|faults| faults.parse().ok())
        .unwrap_or(FAULTS);
    // A fault comes after 9 steps of an attempt at the latest, and a little time: each has a run that still goes on.
    let steps = 20 * (faults + 1);
    let undisturbed = tempfile::tempdir().unwrap();
    let whole = DEADLINE * (1 + faults as u32 / 10);
    let _ = finish_within(start(four_ranks(undisturbed.path(), steps, LONG)), whole).with_code(0);
    let expected = losses(undisturbed.path());
    assert_eq!(expected.len() as u64, steps);

    let dir = tempfile::tempdir().unwrap();
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    let mut during_saves = 0;
    for fault in 0..faults {
        let known = fs::read_dir(dir.path().join("run")).map_or(0, Iterator::count);
        let launcher = start(four_ranks(dir.path(), steps, PATIENCE));
        let folder = wait_for("a run's folder", || new_run(dir.path(), known));
        let lines = 1 + moments.below(8) as usize;
        wait_for("steps", || {
            let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
            (text.lines().count() >= lines).then_some(())
        });
        std::thread::sleep(Duration::from_millis(moments.below(40)));
        let ranks = wait_for("four ranks", || {
            let ranks = children(launcher.id());
            (ranks.len() == 4).then_some(ranks)
        });
        let (victim, signal) = (
            &ranks[moments.below(ranks.len() as u64) as usize],
            if fault % 2 == 0 { "KILL" } else { "STOP" },
        );
        during_saves += u64::from(saving(&folder));
        let number = rank_of(victim);
        let struck = Instant::now();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), victim])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(sent.success(), "fault {fault}: rank {victim} was gone before the signal");
        let ended = finish(launcher);
        let took = struck.elapsed();
        assert!(
            took < Duration::from_secs(PATIENCE + 60),
            "{signal}: the ranks ended after {took:?} only"
        );
        let ended = ended.with_code(1);
        let cause = if signal == "KILL" { "killed by SIGKILL" } else { "did not answer" };
        let named = ended.stderr.contains(cause) && ended.stderr.contains(&format!("rank {number} failed"));
        assert!(named, "{signal} of rank {number}:\n{}", ended.stderr);
        let left: Vec<_> = ranks.iter().filter(|rank| Path::new("/proc").join(rank).exists()).collect();
        assert!(left.is_empty(), "{signal} of {victim}: ranks {left:?} are left");
    }
    let _ = finish_within(start(four_ranks(dir.path(), steps, LONG)), whole).with_code(0);
    assert_eq!(losses(dir.path()), expected);
    println!("{faults} faults, {during_saves} of them during a save");
}

/// The number of the rank that is a process.
fn rank_of(process: &str) -> String {
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    let variables = environment.split(|byte| *byte == 0);
    let rank = variables.filter_map(|variable| variable.strip_prefix(b"RANK=")).next();
    String::from_utf8(rank.unwrap().to_vec()).unwrap()
}
