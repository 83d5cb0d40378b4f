//! Experiments from Rust: inputs of tasks, and events about them.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use neva_run::{Change, Experiment, ExperimentError, Plugin, RunError, Store, TaskReport, TaskState};
use neva_schemas::{ExecutorConfig, LocalExecutorConfig, Script, Task, exit_class};

use crate::experiment::{options, run, states};

#[test]
fn environment_and_arguments_are_passed_unchanged() {
    let script =
        Script::inline(r#"printf '%s|' "$MSG" "$lower_Case" "$@" > "$NEVA_EXPERIMENT_DIR/seen"; pwd >> "$NEVA_EXPERIMENT_DIR/seen""#)
            .env("MSG", "two words 'and \"quotes")
            .env("lower_Case", "$HOME `x`")
            .args(["a b", "", "*"]);
    let (report, dir) = run(Experiment::new("env").add("a", script));
    let here = fs::canonicalize(dir.path()).unwrap();
    let expect = format!("two words 'and \"quotes|$HOME `x`|a b||*|{}\n", here.display());
    assert_eq!(fs::read_to_string(report.dir.join("seen")).unwrap(), expect);
}

#[test]
fn a_script_file_runs_with_its_text_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("second.py"), "print('old')").unwrap();
    let experiment = Experiment::new("file")
        .add("first", Script::inline("echo \"print('new')\" > second.py"))
        .add("second", Script::path("second.py").entrypoint("python3 -u"))
        .depends_on("second", "first");
    let report = experiment.run(options(dir.path())).unwrap();
    assert_eq!(fs::read_to_string(report.dir.join("tasks/second/logs/rank0.log")).unwrap(), "old\n");
}

/// Plugin that sets a variable in every task and records every end.
#[derive(Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Plugin for Recorder {
    fn before_launch(&self, name: &str, task: &mut Task) -> Result<(), RunError> {
        let env_vars = [("FROM_PLUGIN".to_owned(), name.to_owned())].into();
        task.executor = Some(ExecutorConfig::Local(LocalExecutorConfig {
            env_vars,
            ..LocalExecutorConfig::default()
        }));
        Ok(())
    }

    fn after_end(&self, task: &TaskReport) {
        self.0.lock().unwrap().push(format!("{} {}", task.name, task.state.name()));
    }
}

#[test]
fn plugins_change_tasks_and_are_called_at_their_end() {
    let recorder = Recorder::default();
    let ends = Arc::clone(&recorder.0);
    let experiment = Experiment::new("plugin")
        .add("a", Script::inline("[ \"$FROM_PLUGIN\" = a ] && exit 9"))
        .add("b", Script::inline("true"))
        .depends_on("b", "a")
        .plugin(recorder);
    let (report, _dir) = run(experiment);
    assert_eq!(states(&report), ["failed", "skipped"]);
    assert_eq!(*ends.lock().unwrap(), ["a failed", "b skipped"]);
}

#[test]
fn events_are_reported_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let options = options(dir.path()).on_event(move |event| sink.lock().unwrap().push(event.clone()));
    let report = Experiment::new("events").add("a", Script::inline("true")).run(options).unwrap();
    let events = events.lock().unwrap();
    let words: Vec<_> = events
        .iter()
        .map(|event| match &event.change {
            Change::Launched { .. } => "launched",
            Change::Submitted { .. } => "submitted",
            Change::Ended { .. } => "ended",
            Change::Finished { class: 0 } => "finished",
            _ => "other",
        })
        .collect();
    assert_eq!(words, ["launched", "submitted", "ended", "finished"]);
    // The store has the same state.
    let status = Store::new(dir.path().join("home")).find(&report.id).unwrap().status().unwrap();
    assert_eq!((status.name(), &status.report), ("succeeded", &report));
}

#[test]
fn scripts_do_not_get_the_program_of_a_rust_launcher() {
    let (report, _dir) = run(Experiment::new("launcher").add("a", Script::inline(r#"echo "<$NEVA_RUN>""#)));
    assert_eq!(fs::read_to_string(report.dir.join("tasks/a/logs/rank0.log")).unwrap(), "<>\n");
}

#[test]
fn a_name_that_is_taken_gets_a_number() {
    let script = || Script::inline("true");
    let (report, _dir) = run(Experiment::new("numbered")
        .add("a", script())
        .add("a_2", script())
        .add("a", script())
        .add("a", script()));
    let names: Vec<_> = report.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["a", "a_2", "a_3", "a_4"]);
}

#[test]
fn a_missing_program_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("away");
    for (entrypoint, folder, expect, help) in [
        (
            "no-such-program -u",
            dir.path(),
            "cannot start no-such-program in",
            "install the program in `entrypoint`",
        ),
        ("bash", &*away, "cannot start bash in", "the folder no longer exists"),
    ] {
        let options = options(dir.path()).working_directory(folder);
        let experiment = Experiment::new("start").add("a", Script::inline("true").entrypoint(entrypoint));
        let error = experiment.run(options).unwrap_err();
        let RunError::Experiment(ExperimentError::Failed(report)) = error else {
            panic!("{error}")
        };
        let TaskState::Failed(failure) = &report.tasks[0].state else {
            panic!()
        };
        assert_eq!(failure.class, exit_class::CLUSTER);
        assert!(failure.chain[0].starts_with(expect), "{failure:?}");
        assert!(failure.help.as_ref().unwrap().contains(help), "{failure:?}");
    }
}
