//! Runs that are killed, or meet a full disk or a damaged file, and go on as if nothing had happened.

use neva_tests::{Ended, finish, metrics, neva_run, run, run_folder, start, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// Kills of a run. `NEVA_SOAK_KILLS` asks for more.
const KILLS: u64 = 30;

/// Steps of the run.
const STEPS: u64 = 400;

/// `neva_tiny` at a size that trains a step in a few milliseconds and saves every third, in `dir/run`.
pub(crate) fn arguments(dir: &Path, more: &[&str]) -> Vec<String> {
    let at = format!("dir={}", dir.display());
    let steps = format!("finetune.trainer.max_steps={STEPS}");
    let settings = [
        "name=run",
        &at,
        &steps,
        "finetune.trainer.threads_per_rank=1",
        "finetune.trainer.val_check_interval=50",
        "finetune.trainer.limit_val_batches=1",
        "finetune.model.text_config.hidden_size=32",
        "finetune.model.text_config.intermediate_size=48",
        "finetune.model.text_config.num_hidden_layers=2",
        "finetune.model.vision_config.hidden_size=32",
        "finetune.model.vision_config.intermediate_size=48",
        "finetune.model.vision_config.image_size=28",
        "finetune.data.seq_length=16",
        "finetune.data.micro_batch_size=2",
        "finetune.data.global_batch_size=4",
        "finetune.log.ckpt.every_n_train_steps=3",
        "finetune.log.ckpt.save_top_k=2",
        "finetune.log.tensorboard=false",
        "finetune.resume.resume_if_exists=true",
        "finetune.resume.resume_ignore_no_checkpoint=true",
    ];
    let sets = settings
        .into_iter()
        .chain(more.iter().copied())
        .flat_map(|setting| ["--set".to_owned(), setting.to_owned()]);
    std::iter::once("recipes/neva_tiny.yaml".to_owned()).chain(sets).collect()
}

/// A run whose process is the rank itself, so that killing it kills the rank.
fn direct(dir: &Path, more: &[&str]) -> Command {
    let mut arguments = arguments(dir, more);
    arguments.push("--direct".into());
    neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Bits of the loss of each step, over all runs of the folder. Where a step was done twice, both must agree.
pub(crate) fn losses(dir: &Path) -> BTreeMap<u64, u64> {
    let mut losses = BTreeMap::new();
    for run in fs::read_dir(dir.join("run")).unwrap() {
        let text = fs::read_to_string(run.unwrap().path().join("metrics.jsonl")).unwrap_or_default();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let Some(loss) = line["reduced_train_loss"].as_f64() else {
                continue;
            };
            let step = line["step"].as_u64().unwrap();
            let before = losses.insert(step, loss.to_bits());
            assert!(
                before.is_none_or(|bits| bits == loss.to_bits()),
                "step {step} has another loss the second time"
            );
        }
    }
    losses
}

fn undisturbed() -> BTreeMap<u64, u64> {
    let dir = tempfile::tempdir().unwrap();
    let _ = run(direct(dir.path(), &[])).with_code(0);
    let losses = losses(dir.path());
    assert_eq!(losses.len() as u64, STEPS);
    losses
}

/// The newest run's folder, where there is one more than `known`.
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
            // While it starts: before there is a first step, or a folder.
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
    assert!(during_saves > 0, "no kill met a save");
    println!("{kills} kills, {during_saves} of them during a save");
}

/// Whether a checkpoint is being written.
pub(crate) fn saving(run: &Path) -> bool {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().filter_map(Result::ok);
    entries
        .into_iter()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(".writing"))
}

/// The processes that `launcher` started.
pub(crate) fn children(launcher: u32) -> Vec<String> {
    let ids = Command::new("pgrep").args(["-P", &launcher.to_string()]).output().unwrap();
    String::from_utf8_lossy(&ids.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn retries_go_on_from_the_last_checkpoint() {
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
    // All in one folder, and each step once.
    let only = run_folder(dir.path(), "run");
    assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
    assert_eq!(metrics(&only, "step").iter().filter(|step| **step == 25.0).count(), 1);
}

#[test]
fn signals_save_and_stop() {
    let expected = undisturbed();
    for signal in ["TERM", "USR1"] {
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

/// The newest checkpoint of the newest run: the one of the most samples, for a kill may come before it is called the
/// last.
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
fn a_damaged_checkpoint_is_said_and_an_older_one_is_used() {
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
    for (damage, said) in [(flip, "model.safetensors: damaged"), (truncate, "optimizer.safetensors: truncated")] {
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
            ended.stderr.contains(said) && ended.stderr.contains("an older one is looked for"),
            "{}",
            ended.stderr
        );
        assert_eq!(losses(dir.path()), expected);
    }
}

#[test]
fn a_full_disk_ends_the_run_and_leaves_the_older_checkpoint() {
    let expected = undisturbed();
    let dir = tempfile::tempdir().unwrap();
    // The limit on the size of a file stands in for a full disk: a model of 32 x 2048 weights does not fit.
    let limited = |kib: u64, more: &[&str]| {
        let inner = direct(dir.path(), more);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\""));
        shell
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(neva_tests::root());
        shell
    };
    let ended = run(limited(64, &[])).with_code(1);
    assert!(
        ended.stderr.contains("cannot write") && ended.stderr.contains("File too large"),
        "{}",
        ended.stderr
    );
    let left = fs::read_dir(run_folder(dir.path(), "run").join("checkpoints")).unwrap().count();
    assert_eq!(left, 0, "something half-written is left");
    let _ = run(direct(dir.path(), &[])).with_code(0);
    assert_eq!(losses(dir.path()), expected);
}
