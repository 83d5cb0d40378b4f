//! Runs that are killed, or have a full disk or a damaged file, and resume without any difference.

use neva_schemas::StopSignal;
use neva_tests::small::{losses_of, small};
use neva_tests::{Ended, finish, metrics, neva_run, run, run_folder, start, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Number of kills; `NEVA_SOAK_KILLS` overrides it.
const KILLS: u64 = 30;

/// Number of steps of the run.
const STEPS: u64 = 400;

/// Returns arguments of a `neva_tiny` run in `dir/run` with steps of a few milliseconds that saves every third step.
pub(crate) fn arguments(dir: &Path, more: &[&str]) -> Vec<String> {
    let steps = format!("finetune.trainer.max_steps={STEPS}");
    let settings = [
        &steps,
        "finetune.trainer.val_check_interval=50",
        "finetune.trainer.limit_val_batches=1",
        "finetune.log.ckpt.every_n_train_steps=3",
        "finetune.log.ckpt.save_top_k=2",
    ];
    small(dir, "run", &[&settings, more].concat())
}

/// Returns a direct run, in which killing the process kills the rank.
fn direct(dir: &Path, more: &[&str]) -> Command {
    let mut arguments = arguments(dir, more);
    arguments.push("--direct".into());
    neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns the bits of each step's loss, over all runs of the folder. Repeated steps must have equal losses.
pub(crate) fn losses(dir: &Path) -> BTreeMap<u64, u64> {
    losses_of(fs::read_dir(dir.join("run")).unwrap().map(|run| run.unwrap().path()))
}

fn undisturbed() -> BTreeMap<u64, u64> {
    let dir = tempfile::tempdir().unwrap();
    let _ = run(direct(dir.path(), &[])).with_code(0);
    let losses = losses(dir.path());
    assert_eq!(losses.len() as u64, STEPS);
    losses
}

/// Returns the newest run's folder, if there are more than `known`.
pub(crate) fn new_run(dir: &Path, known: usize) -> Option<PathBuf> {
    let mut runs: Vec<_> = fs::read_dir(dir.join("run")).ok()?.map(|run| run.unwrap().path()).collect();
    runs.sort();
    (runs.len() > known).then(|| runs.pop()).flatten()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    let _ = child.wait().unwrap();
}

/// Marsaglia's xorshift: the moments differ, and a failure can be repeated.
pub(crate) struct Moments(pub(crate) u64);

impl Moments {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own switch; and a kill at a random moment waits for nothing"
)]
fn thirty_kills_change_no_loss() {
    let expected = undisturbed();
    let dir = tempfile::tempdir().unwrap();
    let mut moments = Moments(0x9e37_79b9_7f4a_7c15);
    let mut during_saves = 0;
    let kills = std::env::var("NEVA_SOAK_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(KILLS);
    for attempt in 0..kills {
        let known = fs::read_dir(dir.path().join("run")).map_or(0, Iterator::count);
        let child = start(direct(dir.path(), &[]));
        if attempt % 5 == 4 {
            // While it starts: before the first step, or before there is a folder.
            std::thread::sleep(Duration::from_millis(moments.below(400)));
        } else {
            let run = wait_for("a run's folder", || new_run(dir.path(), known));
            let lines = moments.below(12) as usize;
            wait_for("steps", || {
                let text = fs::read_to_string(run.join("metrics.jsonl")).ok()?;
                (text.lines().count() >= lines).then_some(())
            });
            if attempt % 2 == 0 {
                wait_for("a save", || saving(&run).then_some(()));
            }
            during_saves += u64::from(saving(&run));
        }
        kill(child);
    }
    let _ = run(direct(dir.path(), &[])).with_code(0);
    assert_eq!(losses(dir.path()), expected);
    assert!(during_saves > 0, "no kill during a save");
    println!("{kills} kills, {during_saves} of them during a save");
}

/// Returns true if a checkpoint is being written.
pub(crate) fn saving(run: &Path) -> bool {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().filter_map(Result::ok);
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(".writing"))
}

/// Returns the child processes of `launcher`.
pub(crate) fn children(launcher: u32) -> Vec<String> {
    let ids = Command::new("pgrep").args(["-P", &launcher.to_string()]).output().unwrap();
    String::from_utf8_lossy(&ids.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn retries_resume_from_the_last_checkpoint() {
    let expected = undisturbed();
    let dir = tempfile::tempdir().unwrap();
    let mut arguments = arguments(dir.path(), &[]);
    arguments.extend(["--retries".into(), "2".into()]);
    let launcher = start(neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut killed = Vec::new();
    for steps in [20, 150] {
        let rank = wait_for("a rank that has come so far", || {
            let run = new_run(dir.path(), 0)?;
            let text = fs::read_to_string(run.join("metrics.jsonl")).ok()?;
            let rank = children(launcher.id()).into_iter().find(|rank| !killed.contains(rank))?;
            (text.lines().count() >= steps).then_some(rank)
        });
        assert!(Command::new("kill").args(["-KILL", &rank]).status().unwrap().success());
        killed.push(rank);
    }
    let Ended { stderr, .. } = finish(launcher).with_code(0);
    assert_eq!(stderr.matches("SIGKILL").count(), 2, "{stderr}");
    assert_eq!(losses(dir.path()), expected);
    // All attempts share one folder, and each step occurs once.
    let only = run_folder(dir.path(), "run");
    assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
    assert_eq!(metrics(&only, "step").iter().filter(|step| **step == 25.0).count(), 1);
}

#[test]
fn signals_save_and_stop() {
    let expected = undisturbed();
    for signal in ["TERM", "USR1", "INT", "HUP"] {
        // A signal with a handler gets its default action in a new program, even if this test was started by `nohup`.
        for number in StopSignal::ALL.map(StopSignal::number) {
            signal_hook::flag::register(number, Arc::default()).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let child = start(direct(dir.path(), &["finetune.log.ckpt.every_n_train_steps=null"]));
        wait_for("steps", || {
            let text = fs::read_to_string(new_run(dir.path(), 0)?.join("metrics.jsonl")).ok()?;
            (text.lines().count() > 10).then_some(())
        });
        let signalled = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(signalled.success());
        let ended = finish(child).with_code(1);
        assert!(ended.stderr.contains(&format!("stopped by SIG{signal} after ")), "{}", ended.stderr);
        let report = fs::read_to_string(run_folder(dir.path(), "run").join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["stopped"], format!("SIG{signal}"));
        let done = report["steps"].as_u64().unwrap();
        assert!((10..STEPS).contains(&done), "{done}");
        let checkpoint = report["checkpoint"].as_str().unwrap();
        assert!(checkpoint.contains(&format!("step={}-", done - 1)), "{checkpoint}");
        let _ = run(direct(dir.path(), &[])).with_code(0);
        assert_eq!(losses(dir.path()), expected);
    }
}

/// Returns the newest checkpoint of the newest run: the one with the most samples, because a kill may come before it is
/// renamed to the last.
fn newest(dir: &Path) -> PathBuf {
    let checkpoints = run_folder(dir, "run").join("checkpoints");
    let all = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path());
    let samples = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("run--")?;
        let samples = name.rsplit_once("consumed_samples=")?.1;
        samples.strip_suffix("-last").unwrap_or(samples).parse::<u64>().ok()
    };
    all.filter(|path| samples(path).is_some())
        .max_by_key(samples)
        .expect("a checkpoint")
}

#[test]
fn a_damaged_checkpoint_is_reported_and_an_older_one_is_used() {
    let expected = undisturbed();
    type Damage = fn(&Path);
    let flip: Damage = |checkpoint| {
        let path = checkpoint.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(path, bytes).unwrap();
    };
    let truncate: Damage = |checkpoint| {
        let path = checkpoint.join("optimizer.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    for (damage, message) in [(flip, "model.safetensors: damaged"), (truncate, "optimizer.safetensors: truncated")] {
        let dir = tempfile::tempdir().unwrap();
        let child = start(direct(dir.path(), &[]));
        wait_for("steps", || {
            let text = fs::read_to_string(new_run(dir.path(), 0)?.join("metrics.jsonl")).ok()?;
            (text.lines().count() > 10).then_some(())
        });
        kill(child);
        damage(&newest(dir.path()));
        let ended = run(direct(dir.path(), &[])).with_code(0);
        assert!(
            ended.stderr.contains(message) && ended.stderr.contains("skipping a checkpoint"),
            "{}",
            ended.stderr
        );
        assert_eq!(losses(dir.path()), expected);
    }
}

/// Limits the file size of a process. The limit simulates a full disk: a model of 32 x 2048 weights does not fit.
fn limit_files(process: u32, bytes: u64) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let limit = Rlimit {
        current: Some(bytes),
        ..getrlimit(Resource::Fsize)
    };
    let process = Pid::from_raw(process.try_into().unwrap());
    let _ = prlimit(process, Resource::Fsize, limit).unwrap();
}

/// Returns a program that gets an error at such a limit instead of being ended by its signal.
fn survives_limits(inner: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("trap '' XFSZ; exec \"$0\" \"$@\"");
    shell
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(neva_tests::root());
    shell
}

/// Returns the names in the checkpoint folder of the newest run.
fn checkpoints(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_folder(dir, "run").join("checkpoints")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until a run has a checkpoint, then fills its disk. Returns its end and its remaining checkpoints.
fn fill_disk(dir: &Path, child: Child, rank: impl Fn(u32) -> Option<u32>) -> (Ended, Vec<String>) {
    let rank = wait_for("a rank with a checkpoint", || {
        let checkpoints = fs::read_dir(new_run(dir, 0)?.join("checkpoints")).ok()?;
        let mut names = checkpoints.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.any(|name| name.ends_with("-last")).then(|| rank(child.id()))?
    });
    limit_files(rank, 64 << 10);
    let ended = finish(child).with_code(3);
    (ended, checkpoints(dir))
}

fn check_full_disk(expected: &BTreeMap<u64, u64>, dir: &Path, (ended, left): (Ended, Vec<String>), resume: Command) {
    let stderr = ended.stderr;
    assert!(stderr.contains("cannot write") && stderr.contains("File too large"), "{stderr}");
    assert!(
        stderr.contains("help: raise the limit") || stderr.contains("ulimit -f unlimited"),
        "{stderr}"
    );
    // The older checkpoints are kept, and no incomplete one is left.
    assert!(left.iter().any(|name| name.ends_with("-last")), "{left:?}");
    let rest = |name: &String| name.starts_with('.') || name.ends_with("-unfinished");
    assert!(!left.iter().any(rest), "an incomplete checkpoint is left: {left:?}");
    let resumed = run(resume).with_code(0);
    // The launcher prints the output of rank 0.
    let resumed = resumed.stdout + &resumed.stderr;
    assert!(
        resumed.contains("resumes from") && !resumed.contains("skipping a checkpoint"),
        "{resumed}"
    );
    assert_eq!(&losses(dir), expected);
}

#[test]
fn a_full_disk_ends_the_run_and_keeps_the_older_checkpoint() {
    let expected = undisturbed();
    let dir = tempfile::tempdir().unwrap();
    let child = start(survives_limits(&direct(dir.path(), &[])));
    let ended = fill_disk(dir.path(), child, Some);
    check_full_disk(&expected, dir.path(), ended, direct(dir.path(), &[]));
    // A failed first save leaves nothing either.
    let dir = tempfile::tempdir().unwrap();
    let child = start(survives_limits(&direct(dir.path(), &[])));
    limit_files(child.id(), 64 << 10);
    let _ = finish(child).with_code(3);
    assert_eq!(checkpoints(dir.path()), Vec::<String>::new());
}

/// The disk of one rank is full. Both ranks report it, and the launcher prints a suggestion.
#[test]
fn a_full_disk_of_one_rank_of_two_ends_both() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["num_gpus_per_node=2", "finetune.trainer.strategy.tensor_model_parallel_size=2"];
    let launcher = || {
        let arguments = arguments(dir.path(), &settings);
        neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let second = |launcher: u32| {
        let ranks = children(launcher).into_iter().map(|rank| rank.parse::<u32>().unwrap());
        ranks.into_iter().find(|rank| crate::faults::rank_of(&rank.to_string()) == "1")
    };
    let other = tempfile::tempdir().unwrap();
    let arguments = arguments(other.path(), &settings);
    let _ = run(neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())).with_code(0);
    let expected = losses(other.path());
    let ended = fill_disk(dir.path(), start(survives_limits(&launcher())), second);
    assert!(ended.0.stderr.contains("rank 1 failed"), "{}", ended.0.stderr);
    check_full_disk(&expected, dir.path(), ended, launcher());
}

/// An exceeded limit of the system is reported, and not as a missing libtorch.
#[test]
fn exceeded_system_limits_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    for (limit, message) in [
        // The loader has no memory for libtorch, or libtorch for its tables.
        ("-v 400000", "memory limit"),
        ("-f 16", "File too large"),
    ] {
        let words = arguments(dir.path(), &["finetune.trainer.max_steps=10"]);
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("ulimit {limit}; exec \"$0\" \"$@\""))
            .arg(neva_tests::program("neva-run"))
            .args(words)
            .current_dir(neva_tests::root());
        let ended = run(shell);
        let stderr_line = ended.stderr.replace("\n", " ");
        assert!(matches!(ended.code, Some(1 | 3)), "{limit}: {ended:?}");
        assert!(stderr_line.contains(message), "{limit}: {ended:?}");
        assert!(
            !ended.stderr.contains("make setup") && !ended.stderr.contains("signal 25"),
            "{limit}: {ended:?}"
        );
    }
}

/// The launcher is killed at a random time: all its ranks exit, even one that waits for a rank that was never started.
#[test]
#[expect(clippy::disallowed_methods, reason = "a kill at some moment waits for nothing")]
fn a_killed_launcher_leaves_no_rank() {
    let left = |dir: &Path| {
        let mark = format!("NEVA_JOB={}", dir.display());
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let of_job = processes.filter(|process| {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable.starts_with(mark.as_bytes()))
        });
        of_job.count()
    };
    let mut met = 0;
    for moment in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap();
        let words = arguments(&here, &["num_gpus_per_node=2", "finetune.trainer.max_steps=100000"]);
        let child = start(neva_run(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        std::thread::sleep(Duration::from_millis(25 * moment));
        kill(child);
        met += usize::from(left(&here) > 0);
        wait_for("the ranks' end", || (left(&here) == 0).then_some(()));
    }
    assert!(met > 0, "no kill with a running rank");
}

/// A full pipe blocks neither steps nor signals, and neither does a full disk.
#[test]
fn unread_output_blocks_no_rank() {
    for asleep in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let long = ["finetune.trainer.max_steps=100000", "finetune.log.ckpt.every_n_train_steps=null"];
        let mut command = direct(dir.path(), &long);
        let (reader, writer) = std::io::pipe().unwrap();
        let end = || -> Stdio {
            if asleep {
                writer.try_clone().unwrap().into()
            } else {
                fs::File::options().write(true).open("/dev/full").unwrap().into()
            }
        };
        // A run prints about 80 bytes per step, and a pipe holds 64 KiB.
        let mut child = command.stdout(end()).stderr(end()).spawn().unwrap();
        wait_for("more steps than a pipe holds", || {
            let text = fs::read_to_string(new_run(dir.path(), 0)?.join("metrics.jsonl")).ok()?;
            (text.lines().count() > 1200).then_some(())
        });
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let report = wait_for("a report", || fs::read(new_run(dir.path(), 0)?.join("report.json")).ok());
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["stopped"], "SIGTERM");
        assert_eq!(child.wait().unwrap().code(), Some(1), "asleep: {asleep}");
        drop(reader);
    }
}
