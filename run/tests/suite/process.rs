//! The program itself, with a script instead of the rank program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Instant,
};

use neva_run::program;
use neva_schemas::{LaunchPlan, StopSignal, exit_class};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{DEADLINE, fake_rank};

/// `neva-run` in a new folder.
pub(crate) struct Program {
    pub(crate) dir: TempDir,
    command: Command,
}

impl Program {
    pub(crate) fn new(behaviour: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
        command
            .current_dir(dir.path())
            .args(arguments)
            .env("NEVA_RANK", fake_rank())
            .env("FAKE_RANK", behaviour);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { dir, command }
    }

    pub(crate) fn env(mut self, variables: &[(&str, &str)]) -> Self {
        self.command.envs(variables.iter().copied());
        self
    }

    /// Redirects standard output and standard error.
    pub(crate) fn output(mut self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout).stderr(stderr);
        self
    }

    pub(crate) fn without(mut self, variables: &[&str]) -> Self {
        for name in variables {
            self.command.env_remove(name);
        }
        self
    }

    pub(crate) fn spawn(&mut self) -> Child {
        self.command.spawn().unwrap()
    }

    /// Runs to the end; returns exit code, standard output, standard error, and the folder.
    pub(crate) fn run(mut self) -> (i32, String, String, TempDir) {
        let child = self.spawn();
        let (code, stdout, stderr) = end(child);
        (code, stdout, stderr, self.dir)
    }
}

/// Resets ignored signals for the programs of these tests: in the background of a script some are ignored, and children
/// inherit that. A signal with a handler has its default effect in a child.
pub(crate) fn reset_signals() {
    for signal in StopSignal::ALL {
        signal_hook::flag::register(signal.number(), Arc::default()).unwrap();
    }
}

pub(crate) fn end(child: Child) -> (i32, String, String) {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Output { status, stdout, stderr } = receiver
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| {
            let _ = kill_process(pid, Signal::KILL);
            panic!("neva-run did not end in time")
        })
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Waits for the process ids that `ranks` ranks write.
pub(crate) fn pids(dir: &Path, ranks: usize) -> Vec<String> {
    wait_for("ranks", || {
        let dirs = fs::read_dir(dir.join("nemo_experiments/default")).ok()?;
        let text = fs::read_to_string(dirs.last()?.ok()?.path().join("pids")).ok()?;
        (text.lines().count() == ranks && text.ends_with('\n')).then(|| text.lines().map(str::to_owned).collect())
    })
}

/// Returns the folder of the only run below `dir`.
pub(crate) fn run_folder(dir: &Path) -> PathBuf {
    let mut dir = dir.join("nemo_experiments/default");
    dir.push(fs::read_dir(&dir).unwrap().next().unwrap().unwrap().file_name());
    dir
}

/// Waits until `done` returns a value.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} in time");
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
}

pub(crate) fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

#[test]
fn a_run_forwards_rank_0_and_prints_its_files() {
    let (code, stdout, stderr, dir) = Program::new("", &["neva_tiny", "--set", "num_gpus_per_node=2"]).run();
    let folder = run_folder(dir.path());
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let (rank, done) = stdout.split_once('\n').unwrap();
    assert!(rank.starts_with("rank 0 of 2"), "{stdout}");
    let folder = folder.display();
    assert_eq!(
        done,
        format!(
            "done: 5 steps, loss 7.5000 -> 0.2500\n  metrics     {folder}/metrics.jsonl\n  logs        {folder}/logs\n  checkpoint  {folder}/checkpoints/last\n"
        )
    );
}

#[test]
fn curves_are_listed_if_rank_0_plotted_them() {
    let (code, stdout, stderr, dir) = Program::new("curves", &["neva_tiny"]).run();
    let figure = run_folder(dir.path()).join("curves.svg").display().to_string();
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains(&format!("\n  curves      {figure}\n")), "{stdout}");

    for (behaviour, plotted) in [("curves", true), ("", false)] {
        let (_, stdout, _, dir) = Program::new(behaviour, &["neva_tiny", "--output", "json"]).run();
        let figure = plotted.then(|| run_folder(dir.path()).join("curves.svg").display().to_string());
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["curves"], Value::from(figure), "{stdout}");
    }
}

#[test]
fn with_json_standard_output_is_one_document() {
    let (code, stdout, stderr, _dir) = Program::new("", &["neva_tiny", "--output", "json"]).run();
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["steps"]), (0, &Value::from(5)));
    assert!(stderr.starts_with("rank 0 of 1"), "{stderr}");

    let (code, stdout, _, _dir) = Program::new("record", &["neva_tiny", "--output", "json"]).run();
    let error: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &error["error"]["class"], &error["error"]["failure"]["step"]),
        (2, &Value::from(2), &Value::from(3))
    );

    let (code, stdout, _, _dir) = Program::new("", &["neva_tiny", "--output", "json", "--set", "nane=x"]).run();
    let error: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &error["error"]["problems"][0]["at"]),
        (2, &Value::from("--set nane=x")),
        "{stdout}"
    );
}

#[test]
fn a_failure_sets_the_exit_code() {
    let cases = [
        (
            "record",
            exit_class::INPUT,
            "rank 0 failed in step 3: sample 12: cannot read cat.jpg",
        ),
        ("silent", exit_class::JOB, "rank 0 failed: it ended with exit code 1"),
        ("no-libtorch", exit_class::CLUSTER, "run `make setup`"),
        ("no-report", exit_class::BUG, "wrote no report"),
    ];
    for (behaviour, class, message) in cases {
        let (code, _, stderr, dir) = Program::new(behaviour, &["neva_tiny"]).run();
        assert_eq!(code, i32::from(class), "{behaviour}: {stderr}");
        let one_line = stderr.replace("\n  │", "");
        assert!(one_line.contains(message), "{behaviour}: {stderr}");
        let log = run_folder(dir.path()).join("logs/rank0.log");
        assert!(
            behaviour == "no-report" || stderr.contains(&format!("log: {}", log.display())),
            "{behaviour}: {stderr}"
        );
    }
}

#[test]
fn a_signal_to_the_launcher_stops_the_ranks() {
    reset_signals();
    for (behaviour, signals) in [
        ("wait", vec![Signal::TERM]),
        ("wait", vec![Signal::INT]),
        ("wait", vec![Signal::HUP]),
        ("hang", vec![Signal::INT, Signal::INT]),
    ] {
        let mut program = Program::new(behaviour, &["neva_tiny", "--set", "num_gpus_per_node=2"]);
        let child = program.spawn();
        let pids = wait_for("two ranks", || {
            let dirs = fs::read_dir(program.dir.path().join("nemo_experiments/default")).ok()?;
            let text = fs::read_to_string(dirs.last()?.ok()?.path().join("pids")).ok()?;
            (text.lines().count() == 2 && text.ends_with('\n')).then_some(text)
        });
        let launcher = Pid::from_child(&child);
        let folder = run_folder(program.dir.path());
        for (sent, signal) in (1..).zip(&signals) {
            kill_process(launcher, *signal).unwrap();
            // Equal signals may merge.
            wait_for("a request to cancel", || {
                if fs::metadata(folder.join("cancel")).is_ok_and(|requests| requests.len() >= sent) {
                    return Some(());
                }
                // A signal soon after the first is the same request, so it is sent again.
                kill_process(launcher, *signal).unwrap();
                None
            });
        }
        let (code, _, stderr) = end(child);
        assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
        assert!(stderr.contains("the run was cancelled"), "{stderr}");
        for pid in pids.lines() {
            assert!(!alive(pid), "{behaviour} {signals:?}: process {pid} is left");
        }
    }
}

#[test]
fn direct_runs_in_the_same_process() {
    let mut program = Program::new("", &["neva_tiny", "--direct", "--set", "finetune.trainer.max_steps=5"]);
    let child = program.spawn();
    let pid = child.id();
    let (code, stdout, stderr) = end(child);
    assert_eq!(
        (code, stdout.trim_end()),
        (0, format!("rank 0 of 1, process {pid}").as_str()),
        "{stderr}"
    );
    let plan: LaunchPlan = serde_json::from_slice(&fs::read(run_folder(program.dir.path()).join("plan.json")).unwrap()).unwrap();
    assert_eq!(plan.run.finetune.trainer.max_steps, Some(5));
}

/// An executable that the loader accepts is not run first: loading libtorch twice would double the time of a start.
#[test]
fn direct_starts_the_rank_program_once() {
    let (code, stdout, stderr, dir) = Program::new("", &["neva_tiny", "--direct"])
        .env(&[("NEVA_RANK", "/bin/echo")])
        .run();
    assert_eq!(code, 0, "{stderr}");
    let plan = run_folder(dir.path()).join("plan.json");
    assert_eq!(stdout.trim_end(), format!("train --plan {}", plan.display()));
}

#[test]
fn direct_under_torchrun_leaves_the_folder_to_rank_0() {
    let two = ["neva_tiny", "--direct", "--set", "num_gpus_per_node=2"];
    let torchrun = [("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];
    let (code, stdout, stderr, dir) = Program::new("", &two).env(&torchrun).env(&[("RANK", "0")]).run();
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("rank 0 of 2") && run_folder(dir.path()).join("plan.json").is_file());

    let (code, stdout, stderr, dir) = Program::new("", &two).env(&torchrun).env(&[("RANK", "1")]).run();
    assert_eq!(code, 0, "{stderr}");
    let plan = stdout
        .lines()
        .find_map(|line| line.strip_prefix("plan "))
        .expect("a plan to remove");
    assert!(!Path::new(plan).exists() && !Path::new(plan).starts_with(dir.path()), "{plan}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "rank 1 creates no folder");
}

#[test]
fn direct_reports_missing_variables() {
    let two = ["neva_tiny", "--direct", "--set", "num_gpus_per_node=2"];
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, u8, &'a str);
    let cases: &[Case] = &[
        (&two, &[], "", exit_class::INPUT, "the run asks for 2 ranks"),
        (&two, &[("RANK", "0")], "", exit_class::INPUT, "are not set"),
        (
            &two,
            &[("RANK", "0"), ("WORLD_SIZE", "3"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")],
            "",
            exit_class::INPUT,
            "torchrun started 3 ranks",
        ),
        (
            &two,
            &[
                ("SLURM_STEP_NUM_TASKS", "4"),
                ("SLURM_PROCID", "1"),
                ("SLURM_STEP_NODELIST", "n[1-4]"),
            ],
            "",
            exit_class::INPUT,
            "srun started 4 ranks, but the run asks for 2",
        ),
        (
            &two,
            &[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")],
            "",
            exit_class::INPUT,
            "set MASTER_ADDR",
        ),
        // The environment of a batch script, in which srun has not started ranks.
        (
            &two,
            &[("SLURM_NTASKS", "2"), ("SLURM_PROCID", "0")],
            "",
            exit_class::INPUT,
            "the run asks for 2 ranks",
        ),
        (
            &two,
            &[("RANK", "x"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")],
            "",
            exit_class::INPUT,
            "RANK=\"x\" is not a number",
        ),
        (
            &["neva_tiny"],
            &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")],
            "",
            exit_class::INPUT,
            "add `--direct`",
        ),
        (
            &["neva_tiny", "--direct"],
            &[],
            "no-libtorch",
            exit_class::CLUSTER,
            "run `make setup`",
        ),
        (
            &["neva_tiny", "--direct"],
            &[("NEVA_RANK", "/nowhere/neva-rank")],
            "",
            exit_class::CLUSTER,
            "NEVA_RANK names /nowhere/neva-rank",
        ),
    ];
    for (arguments, variables, behaviour, class, message) in cases {
        let (code, _, stderr, dir) = Program::new(behaviour, arguments).env(variables).run();
        let one_line = stderr.replace("\n  │", "");
        assert_eq!(code, i32::from(*class), "{arguments:?} {variables:?}: {stderr}");
        assert!(one_line.contains(message), "{message}: {stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{message}: nothing is left");
    }
}

#[test]
fn doctor_names_missing_parts() {
    for (behaviour, message) in [("no-libtorch", "run `make setup`"), ("old-libtorch", "2.1.0, needs 2.11")] {
        let (code, stdout, stderr, _dir) = Program::new(behaviour, &["doctor"]).run();
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{stdout}");
        assert!(stdout.contains("MISSING") && stdout.contains(message), "{stdout}");
        assert!(stderr.contains("1 of these checks failed"), "{stderr}");
        let (_, stdout, _, _dir) = Program::new(behaviour, &["doctor", "--output", "json"]).run();
        let checks: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(checks.as_array().unwrap().iter().filter(|check| check["ok"] == false).count(), 1);
    }
}

/// The file of the program contains the names of the libraries that it links.
#[test]
fn the_program_links_no_libtorch() {
    let program = fs::read(env!("CARGO_BIN_EXE_neva-run")).unwrap();
    let holds = |name: &str| program.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(holds("libc.so"), "the names of libraries are found");
    for library in ["libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10.so"] {
        assert!(!holds(library), "{library}");
    }
}

#[test]
fn a_dry_run_does_nothing() {
    let (code, stdout, stderr, dir) = Program::new("", &["llava15_7b", "--dry-run", "--set", "dir=here", "--output", "json"]).run();
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, value["processes"].as_array().unwrap().len()), (0, 8), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_rank_program_is_found_by_variable_then_next_to_the_launcher_then_in_path() {
    let (beside, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lookup = |named: Option<&str>| {
        let (named, path) = (named.map(str::to_owned), path.path().display().to_string());
        move |name: &str| match name {
            "NEVA_RANK" => named.clone(),
            "PATH" => Some(format!("relative:{path}")),
            _ => None,
        }
    };
    let error = program::find(lookup(None), Some(beside.path())).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::CLUSTER);
    assert!(error.advice().unwrap().contains("cargo build --release"));

    let in_path = path.path().join("neva-rank");
    fs::write(&in_path, "").unwrap();
    assert_eq!(program::find(lookup(None), Some(beside.path())).unwrap(), in_path);
    let file = beside.path().join("neva-rank");
    fs::write(&file, "").unwrap();
    assert_eq!(program::find(lookup(None), Some(beside.path())).unwrap(), file);
    assert_eq!(program::find(lookup(None), None).unwrap(), in_path);
    let named = fake_rank().display().to_string();
    assert_eq!(program::find(lookup(Some(&named)), Some(beside.path())).unwrap(), fake_rank());
    program::find(lookup(Some("/nowhere")), Some(beside.path())).unwrap_err();
}
