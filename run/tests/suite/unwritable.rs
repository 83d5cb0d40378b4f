//! Output that cannot be written: reported, except for a closed pipe.

use std::{fs::File, io, process::Command};

use neva_schemas::exit_class;

use crate::{process::Program, process::end};

/// Commands that print a result.
const RESULTS: &[&[&str]] = &[
    &["show", "neva_tiny"],
    &["show", "neva_tiny", "--output", "json"],
    &["show", "neva_tiny", "--origins"],
    &["diff", "neva_tiny", "llava15_7b"],
    &["schema"],
    &["schema", "recipe"],
    &["recipes"],
    &["completions", "bash"],
    &["doctor"],
    &["neva_tiny", "--dry-run"],
    &["neva_tiny", "--to-yaml", "-"],
    &["experiment", "list", "--output", "json"],
    &["--help"],
    &["help", "show"],
    &["--version"],
];

#[test]
fn a_result_that_cannot_be_written_has_exit_code_3() {
    for arguments in RESULTS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut program = Program::new("", arguments)
            .env(&[("NEVA_RUN_HOME", "home")])
            .output(full, std::process::Stdio::piped());
        let (code, _, stderr) = end(program.spawn());
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("cannot write to standard output") && stderr.contains("No space left on device"),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    for arguments in RESULTS {
        let (_, writer) = io::pipe().unwrap();
        let mut program = Program::new("", arguments)
            .env(&[("NEVA_RUN_HOME", "home")])
            .output(writer, std::process::Stdio::piped());
        let (code, _, stderr) = end(program.spawn());
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn a_finished_run_succeeds_if_its_result_cannot_be_written() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut program = Program::new("", &["neva_tiny"]).output(full, std::process::Stdio::piped());
    let (code, _, stderr) = end(program.spawn());
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("warning: cannot write to standard output: No space left on device"),
        "{stderr}"
    );
}

/// The advice names no option that the subcommand does not have.
#[test]
fn a_named_file_that_cannot_be_written_has_its_own_advice() {
    let cases: &[(&[&str], &str)] = &[
        (&["neva_tiny", "--to-yaml", "missing/x.yaml"], "mkdir -p missing"),
        (&["recipes", "copy", "neva_tiny", "missing/x.yaml"], "mkdir -p missing"),
        (
            &["recipes", "copy", "neva_tiny", "/sys/x.yaml"],
            "name a place that you may write to",
        ),
        (&["render", "neva_tiny", "--out", "/sys/x"], "name a place that you may write to"),
        (&["schema", "--write", "/sys/x"], "name a place that you may write to"),
    ];
    for (arguments, help) in cases {
        let (code, _, stderr, _dir) = Program::new("", arguments).run();
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{arguments:?}: {stderr}");
        assert!(stderr.contains(help) && !stderr.contains("--set"), "{arguments:?}: {stderr}");
    }
}

/// The limit on the size of files stands in for a full disk.
#[test]
fn a_full_disk_leaves_no_partial_file() {
    for (option, file) in [("--to-yaml", "full.yaml"), ("--to-json", "full.json"), ("--to-toml", "full.toml")] {
        let dir = tempfile::tempdir().unwrap();
        let export = |limit: &str, more: &[&str]| {
            let script = format!("{limit} exec \"$0\" \"$@\"");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_neva-run"), "neva_tiny", option, file]);
            shell.args(more).current_dir(dir.path()).output().unwrap()
        };
        let limited = export("ulimit -f 0;", &[]);
        let stderr = String::from_utf8_lossy(&limited.stderr);
        assert_eq!(limited.status.code(), Some(i32::from(exit_class::CLUSTER)), "{stderr}");
        assert!(stderr.contains("cannot write") && stderr.contains("File too large"), "{stderr}");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 0, "{option}: a partial file is left");

        // An existing file is kept.
        assert!(export("", &[]).status.success());
        let before = std::fs::read(dir.path().join(file)).unwrap();
        assert!(!export("ulimit -f 0;", &["--yes"]).status.success());
        assert_eq!(std::fs::read(dir.path().join(file)).unwrap(), before, "{option}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "{option}: a partial file is left"
        );
    }
}

#[test]
fn a_failure_is_reported_once() {
    for (arguments, message) in [
        (&["neva_tiny"][..], "cannot read cat.jpg"),
        (&["neva_tiny", "--quiet"], "cannot read cat.jpg"),
        (&["neva_tiny", "--quiet", "--tail"], "cannot read cat.jpg"),
    ] {
        let (code, stdout, stderr, dir) = Program::new("record", arguments).run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert_eq!((stdout + &stderr).matches(message).count(), 1, "{arguments:?}");
        // The log contains it, too.
        let log = crate::process::run_folder(dir.path()).join("logs/rank0.log");
        assert_eq!(std::fs::read_to_string(log).unwrap().matches(message).count(), 1);
    }
    // A failure without a record is reported with the end of the log, unless that was shown already.
    for arguments in [&["neva_tiny"][..], &["neva_tiny", "--quiet"]] {
        let (_, stdout, stderr, _dir) = Program::new("silent", arguments).run();
        assert_eq!((stdout + &stderr).matches("something odd").count(), 1, "{arguments:?}");
    }
}

#[test]
fn a_quiet_experiment_names_every_failed_task() {
    let experiment = "
name: two
tasks:
  left: {task: {_target_: run.Script, inline: 'exit 3'}}
  right: {task: {_target_: run.Script, inline: 'exit 4'}}
  fine: {task: {_target_: run.Script, inline: 'exit 0'}}
";
    let program = Program::new("", &["two.yaml", "--quiet"]).env(&[("NEVA_RUN_HOME", "home")]);
    std::fs::write(program.dir.path().join("two.yaml"), experiment).unwrap();
    let (code, stdout, stderr, _dir) = program.run();
    assert_eq!((code, stdout.as_str()), (i32::from(exit_class::JOB), ""));
    for task in [
        "left: failed: it ended with exit code 3",
        "right: failed: it ended with exit code 4",
    ] {
        assert!(stderr.contains(task), "{stderr}");
    }
    assert!(!stderr.contains("fine"), "{stderr}");
}
