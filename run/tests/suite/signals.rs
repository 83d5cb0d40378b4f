//! Signals reach the ranks whatever happens to the terminal, and ignored signals stay ignored.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use neva_schemas::{StopSignal, exit_class};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Program, alive, end, pids, reset_signals, run_folder, wait_for};

fn signal(signal: StopSignal) -> Signal {
    Signal::from_named_raw(signal.number()).unwrap()
}

/// Returns the signal that stopped rank 0, from its report.
fn stopped_by(dir: &Path) -> String {
    let report = fs::read(run_folder(dir).join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    report["stopped"].as_str().unwrap_or_default().to_owned()
}

/// Returns the state of a process: `T` is stopped.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

#[test]
fn ranks_receive_the_signal_of_the_launcher() {
    reset_signals();
    for sent in StopSignal::ALL {
        let mut program = Program::new("stops", &["neva_tiny"]);
        let child = program.spawn();
        let ranks = pids(program.dir.path(), 1);
        kill_process(Pid::from_child(&child), signal(sent)).unwrap();
        let (code, _, stderr) = end(child);
        assert_eq!(code, i32::from(exit_class::JOB), "{sent}: {stderr}");
        assert_eq!(stopped_by(program.dir.path()), sent.name());
        assert!(!alive(&ranks[0]), "{sent}");
    }
}

/// A shell repeats the hangup of its terminal; the run still saves a checkpoint.
#[test]
fn a_repeated_hangup_is_one_request() {
    reset_signals();
    let mut program = Program::new("stops", &["neva_tiny", "--set", "num_gpus_per_node=2"]);
    let child = program.spawn();
    let _ = pids(program.dir.path(), 2);
    for _ in 0..20 {
        // The launcher may have ended since.
        let _ = kill_process(Pid::from_child(&child), Signal::HUP);
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let (code, _, stderr) = end(child);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert_eq!(stopped_by(program.dir.path()), "SIGHUP");
}

/// Destination of a launcher's output.
enum Output {
    /// A full disk.
    Full,
    /// A closed pipe.
    Closed,
    /// A reader that reads nothing.
    Blocked,
}

/// The launcher ends as on a terminal: ranks save a checkpoint, and the exit code is the documented one.
#[test]
fn blocked_output_does_not_block_signals() {
    reset_signals();
    for (behaviour, arguments, ranks) in [
        ("stops", &["neva_tiny"][..], 1),
        ("floods", &["neva_tiny", "-vv"], 1),
        ("floods", &["neva_tiny", "--output", "json"], 1),
    ] {
        for output in [Output::Full, Output::Closed, Output::Blocked] {
            let (reader, writer) = io::pipe().unwrap();
            let mut reader = Some(reader);
            let [stdout, stderr] = match output {
                Output::Full => [0; 2].map(|_| Stdio::from(File::options().write(true).open("/dev/full").unwrap())),
                Output::Closed | Output::Blocked => [0; 2].map(|_| Stdio::from(writer.try_clone().unwrap())),
            };
            if !matches!(output, Output::Blocked) {
                reader = None;
            }
            let mut program = Program::new(behaviour, arguments).output(stdout, stderr);
            let child = program.spawn();
            let ranks = pids(program.dir.path(), ranks);
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            let (code, ..) = end(child);
            assert_eq!(code, i32::from(exit_class::JOB), "{behaviour} {arguments:?}");
            assert_eq!(stopped_by(program.dir.path()), "SIGTERM", "{behaviour} {arguments:?}");
            assert!(ranks.iter().all(|rank| !alive(rank)), "{behaviour} {arguments:?}");
            drop(reader);
        }
    }
}

/// The same for the tasks of an experiment.
#[test]
fn blocked_output_does_not_block_signals_of_an_experiment() {
    reset_signals();
    let experiment = "name: long\ntasks:\n  wait: {task: {_target_: run.Script, inline: 'echo up > up; exec sleep 1000'}}\n";
    for arguments in [&["long.yaml", "-vv"][..], &["long.yaml", "--tail"]] {
        let (_, writer) = io::pipe().unwrap();
        let program = Program::new("", arguments).env(&[("NEVA_RUN_HOME", "home")]);
        fs::write(program.dir.path().join("long.yaml"), experiment).unwrap();
        let mut program = program.output(writer.try_clone().unwrap(), writer);
        let child = program.spawn();
        let up = program.dir.path().join("up");
        wait_for("the task", || up.is_file().then_some(()));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let (code, ..) = end(child);
        assert_eq!(code, i32::from(exit_class::JOB), "{arguments:?}");
        let (code, stdout, ..) = {
            let home = program.dir.path().join("home").display().to_string();
            Program::new("", &["experiment", "status", "long"])
                .env(&[("NEVA_RUN_HOME", &home)])
                .run()
        };
        assert!(code == 0 && stdout.contains("wait  cancelled"), "{stdout}");
    }
}

#[test]
fn a_run_finishes_if_its_output_cannot_be_written() {
    for arguments in [&["neva_tiny"][..], &["neva_tiny", "-vvv"], &["neva_tiny", "--direct", "-vv"]] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let (code, .., dir) = Program::new("", arguments).output(full(), full()).run();
        assert_eq!(code, 0, "{arguments:?}");
        assert!(run_folder(dir.path()).join("report.json").is_file());
    }
}

/// `nohup neva-run ...`, and `neva-run ... &` in a script.
#[test]
fn ignored_signals_stay_ignored() {
    reset_signals();
    let program = Program::new("counts", &["neva_tiny"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP INT; exec \"$0\" neva_tiny", env!("CARGO_BIN_EXE_neva-run")])
        .current_dir(program.dir.path())
        .env("NEVA_RANK", crate::fake_rank())
        .env("FAKE_RANK", "counts")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = shell.spawn().unwrap();
    let ranks = pids(program.dir.path(), 1);
    let ticks = run_folder(program.dir.path()).join("ticks");
    let count = || fs::read_to_string(&ticks).map_or(0, |ticks| ticks.lines().count());
    for ignored in [Signal::HUP, Signal::INT] {
        kill_process(Pid::from_child(&child), ignored).unwrap();
        kill_process(Pid::from_raw(ranks[0].parse().unwrap()).unwrap(), ignored).unwrap();
        let before = count();
        wait_for("the run to continue", || (count() > before + 2).then_some(()));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let (code, _, stderr) = end(child);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert_eq!(stopped_by(program.dir.path()), "SIGTERM");
}

/// Ctrl-Z and `fg`.
#[test]
fn ranks_are_suspended_and_continued_with_their_launcher() {
    reset_signals();
    let mut program = Program::new("counts", &["neva_tiny", "--set", "num_gpus_per_node=2"]);
    let child = program.spawn();
    let launcher = child.id().to_string();
    let ranks = pids(program.dir.path(), 2);
    let all = || ranks.iter().chain([&launcher]);
    let ticks = run_folder(program.dir.path()).join("ticks");
    for _ in 0..2 {
        kill_process(Pid::from_child(&child), Signal::TSTP).unwrap();
        // A shell that waits for its child to start cannot be interrupted (D) while that child is stopped.
        wait_for("all to stop", || {
            all().all(|pid| matches!(state(pid), Some('T' | 'D'))).then_some(())
        });
        let before = fs::metadata(&ticks).unwrap().len();
        kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
        wait_for("the ranks to continue", || {
            (fs::metadata(&ticks).unwrap().len() > before).then_some(())
        });
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let (code, _, stderr) = end(child);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert!(ranks.iter().all(|rank| !alive(rank)));
}

/// Returns the processes that have a job below `dir` in their environment.
fn job_processes(dir: &Path) -> Vec<String> {
    let mark = format!("NEVA_JOB={}", dir.display());
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let of_job = processes.filter(|process| {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(mark.as_bytes()))
    });
    of_job.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

/// The launcher may be killed at any moment, also while it starts ranks: each rank notices and exits.
#[test]
#[expect(clippy::disallowed_methods, reason = "a kill at some moment waits for nothing")]
fn a_killed_launcher_leaves_no_rank() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let mut hits = 0;
    for moment in 0..60 {
        let at = format!("dir={}", here.join(moment.to_string()).display());
        let mut program = Program::new("lives", &["neva_tiny", "--set", "num_gpus_per_node=8", "--set", &at]);
        let mut child = program.spawn();
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        let _ = child.wait().unwrap();
        hits += usize::from(!job_processes(&here).is_empty());
        let killed = Instant::now();
        wait_for("the ranks to exit", || job_processes(&here).is_empty().then_some(()));
        assert!(killed.elapsed() < crate::DEADLINE);
    }
    // At least one kill must come after a rank has started.
    let mut program = Program::new("lives", &["neva_tiny", "--set", &format!("dir={}", here.display())]);
    let mut child = program.spawn();
    wait_for("a rank", || (!job_processes(&here).is_empty()).then_some(()));
    child.kill().unwrap();
    let _ = child.wait().unwrap();
    wait_for("the rank to exit", || job_processes(&here).is_empty().then_some(()));
    println!("{hits} of 60 kills came after a rank had started");
}
