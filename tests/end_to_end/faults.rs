//! Kills or stops ranks of a model-parallel run: all ranks end, the root cause is reported, and the run resumes bit for
//! bit.

use crate::killed::{Moments, arguments, children, losses, new_run};
use neva_tests::{DEADLINE, finish, finish_within, neva_run, start, wait_for};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Timeout in seconds with faults.
const TIMEOUT_S: u64 = 20;
/// Timeout in seconds without faults.
const LONG: u64 = 300;

/// Number of faults; `NEVA_SOAK_FAULTS` overrides it.
const FAULTS: u64 = 4;

const STRATEGY: &str = "finetune.trainer.strategy";

/// Returns a launcher of four ranks: two stages of two tensor-parallel ranks each.
fn four_ranks(dir: &Path, steps: u64, timeout_s: u64) -> Command {
    let steps = format!("finetune.trainer.max_steps={steps}");
    let timeout = format!("finetune.trainer.timeout_s={timeout_s}");
    let tensor = format!("{STRATEGY}.tensor_model_parallel_size=2");
    let pipeline = format!("{STRATEGY}.pipeline_model_parallel_size=2");
    let settings = [
        "num_gpus_per_node=4",
        &steps,
        "finetune.log.ckpt.every_n_train_steps=5",
        &timeout,
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
fn a_killed_or_stopped_rank_ends_the_run_and_loses_no_step() {
    let faults = std::env::var("NEVA_SOAK_FAULTS")
        .ok()
        .and_then(|faults| faults.parse().ok())
        .unwrap_or(FAULTS);
    // A fault comes at most 9 steps and a few saves after the start of an attempt, so the run is still active.
    let steps = 40 * (faults + 1);
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
        let launcher = start(four_ranks(dir.path(), steps, TIMEOUT_S));
        let folder = wait_for("a run's folder", || new_run(dir.path(), known));
        // The second half of the faults comes while the victim writes its shard of a checkpoint.
        let in_a_save = fault >= faults / 2;
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
        let number = rank_of(victim);
        let send = |signal: &str| {
            let sent = Command::new("kill")
                .args([&format!("-{signal}"), victim])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(sent.success(), "fault {fault}: rank {victim} was gone before the signal");
        };
        if in_a_save {
            // It is stopped first, so that it writes no more before the fault.
            wait_for("a save that the victim has a part in", || {
                if !is_writing_its_shard(&folder, &number) {
                    return None;
                }
                send("STOP");
                if is_writing_its_shard(&folder, &number) {
                    return Some(());
                }
                send("CONT");
                None
            });
            during_saves += 1;
        }
        let struck = Instant::now();
        send(signal);
        let ended = finish(launcher);
        let took = struck.elapsed();
        assert!(
            took < Duration::from_secs(TIMEOUT_S + 60),
            "{signal}: the ranks ended after {took:?} only"
        );
        let ended = ended.with_code(1);
        let cause = if signal == "KILL" { "killed by SIGKILL" } else { "did not respond" };
        let named = ended.stderr.contains(cause) && ended.stderr.contains(&format!("rank {number} failed"));
        assert!(named, "{signal} of rank {number}:\n{}", ended.stderr);
        let left: Vec<_> = ranks.iter().filter(|rank| Path::new("/proc").join(rank).exists()).collect();
        assert!(left.is_empty(), "{signal} of {victim}: ranks {left:?} are still running");
    }
    let _ = finish_within(start(four_ranks(dir.path(), steps, LONG)), whole).with_code(0);
    assert_eq!(losses(dir.path()), expected);
    assert_eq!(during_saves, faults - faults / 2, "faults during a save");
    assert!(during_saves > 1, "both kinds of fault come during a save");
}

/// Returns true if a checkpoint is being written and this rank has not reported its shard as complete.
fn is_writing_its_shard(run: &Path, rank: &str) -> bool {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().filter_map(Result::ok);
    let mut saves = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "writing"));
    // The first rank does not report; it renames the folder.
    saves.any(|save| save.join("token").exists() && !save.join(format!("written-{rank:0>5}.json")).exists())
}

/// Returns the rank of a process.
pub(crate) fn rank_of(process: &str) -> String {
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    let variables = environment.split(|byte| *byte == 0);
    let rank = variables.filter_map(|variable| variable.strip_prefix(b"RANK=")).next();
    String::from_utf8(rank.unwrap().to_vec()).unwrap()
}
