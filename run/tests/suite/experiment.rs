//! Experiments from Rust: which tasks run, their order, and the exit code.

use std::{fs, path::Path};

use neva_run::{Experiment, ExperimentError, ExperimentOptions, ExperimentReport, RunError, Store};
use neva_schemas::{ExecutorConfig, LocalExecutorConfig, Script, Task, When, exit_class};
use tempfile::TempDir;

pub(crate) fn options(dir: &Path) -> ExperimentOptions {
    ExperimentOptions::default()
        .store(Store::new(dir.join("home")))
        .working_directory(dir)
}

/// Runs an experiment in a new folder; returns its report, also after a failure.
pub(crate) fn run(experiment: Experiment) -> (ExperimentReport, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let report = match experiment.run(options(dir.path())) {
        Ok(report) => report,
        Err(RunError::Experiment(ExperimentError::Failed(report))) => *report,
        Err(error) => panic!("{error}"),
    };
    (report, dir)
}

pub(crate) fn states(report: &ExperimentReport) -> Vec<&str> {
    report.tasks.iter().map(|task| task.state.name()).collect()
}

pub(crate) fn retries(retries: u32, script: Script) -> Task {
    let local = LocalExecutorConfig {
        retries,
        ..LocalExecutorConfig::default()
    };
    Task {
        executor: Some(ExecutorConfig::Local(local)),
        ..Task::new(script)
    }
}

#[test]
fn an_edge_requires_how_the_parent_ended() {
    let cases = [
        ("exit 0", When::AfterOk, "succeeded"),
        ("exit 3", When::AfterOk, "skipped"),
        ("exit 0", When::AfterAny, "succeeded"),
        ("exit 3", When::AfterAny, "succeeded"),
        ("exit 0", When::AfterNotOk, "skipped"),
        ("exit 3", When::AfterNotOk, "succeeded"),
    ];
    for (script, when, expect) in cases {
        let experiment = Experiment::new("edge")
            .add("parent", Script::inline(script))
            .add("child", Script::inline("true"))
            .depends_on_when("child", when, "parent");
        let (report, _dir) = run(experiment);
        assert_eq!(report.tasks[1].state.name(), expect, "{script} {when:?}");
        assert_eq!(report.exit_code(), u8::from(script != "exit 0"), "{script} {when:?}");
    }
}

#[test]
fn a_failure_skips_dependents_and_no_other_task() {
    let experiment = Experiment::new("chain")
        .add("d", Script::inline("true"))
        .add("a", Script::inline("exit 5"))
        .add("b", Script::inline("true"))
        .add("c", Script::inline("true"))
        .add("other", Script::inline("true"))
        .depends_on("b", "a")
        .depends_on("c", "b")
        .depends_on("d", "c");
    let (report, _dir) = run(experiment);
    assert_eq!(states(&report), ["skipped", "failed", "skipped", "skipped", "succeeded"]);
    assert_eq!(report.tasks[2].state.to_string(), "skipped: `a` failed");
    assert_eq!(report.tasks[0].state.to_string(), "skipped: `c` was skipped");
}

#[test]
fn two_retries_make_three_attempts() {
    let count = r#"echo x >> "$NEVA_EXPERIMENT_DIR/tries"; [ "$(wc -l < "$NEVA_EXPERIMENT_DIR/tries")" -ge "$1" ]"#;
    for (needed, state) in [("3", "succeeded"), ("4", "failed")] {
        let (report, _dir) = run(Experiment::new("retry").add("a", retries(2, Script::inline(count).args([needed]))));
        let tries = fs::read_to_string(report.dir.join("tries")).unwrap();
        assert_eq!((tries.lines().count(), report.tasks[0].attempts), (3, 3));
        assert_eq!(states(&report), [state]);
    }
}

#[test]
fn a_group_is_stopped_only_on_failure() {
    let group = |first: &str, second: &str| {
        let tasks = [("first", first), ("second", second)].map(|(name, text)| (name.to_owned(), Script::inline(text)));
        run(Experiment::new("group")
            .add_group("pair", tasks)
            .add("after", Script::inline("true"))
            .depends_on("after", "pair"))
    };
    // The second one sees the end of the first and continues.
    let wait = r#"while [ ! -e "$NEVA_EXPERIMENT_DIR/done" ]; do read -rt 0.01 <> <(:) || :; done"#;
    let (report, _dir) = group(r#"touch "$NEVA_EXPERIMENT_DIR/done""#, wait);
    assert_eq!(states(&report), ["succeeded", "succeeded", "succeeded"]);
    // The first one fails; the second, which would run forever, is stopped.
    let (report, _dir) = group("exit 1", "while :; do read -rt 0.05 <> <(:) || :; done");
    assert_eq!(states(&report), ["failed", "cancelled", "skipped"]);
    assert_eq!(report.exit_code(), exit_class::JOB);
}

#[test]
fn a_sequential_experiment_runs_one_task_at_a_time_until_one_fails() {
    let text = |name: &str, code: u8| Script::inline(format!("echo {name} >> \"$NEVA_EXPERIMENT_DIR/order\"; exit {code}"));
    let experiment = Experiment::new("seq")
        .add("a", text("a", 0))
        .add("b", text("b", 0))
        .add("c", text("c", 1))
        .add("d", text("d", 0))
        .sequential();
    let (report, _dir) = run(experiment);
    assert_eq!(states(&report), ["succeeded", "succeeded", "failed", "skipped"]);
    assert_eq!(fs::read_to_string(report.dir.join("order")).unwrap(), "a\nb\nc\n");
}

#[test]
fn max_parallel_limits_the_running_tasks() {
    // Each task fails if it sees more than two running tasks.
    let text = r#"cd "$NEVA_EXPERIMENT_DIR"; touch "run.$NEVA_TASK"; n=$(ls run.* | wc -l); read -rt 0.02 <> <(:) || :; rm "run.$NEVA_TASK"; [ "$n" -le 2 ]"#;
    let mut experiment = Experiment::new("few").max_parallel(2);
    for number in 0..12 {
        experiment = experiment.add(format!("t{number}"), Script::inline(text));
    }
    let (report, _dir) = run(experiment);
    assert!(states(&report).iter().all(|state| *state == "succeeded"), "{:?}", states(&report));
}

#[test]
fn the_exit_code_is_that_of_the_earliest_failure() {
    let experiment = Experiment::new("first")
        .add("late", Script::inline("exit 1"))
        .add("early", Script::inline("no-such-program-anywhere"))
        .depends_on_when("late", When::AfterAny, "early");
    let (report, _dir) = run(experiment);
    assert_eq!(report.exit_code(), exit_class::CLUSTER);
    assert_eq!(report.first_failure().unwrap().0.name, "early");
}

#[test]
fn an_invalid_experiment_is_refused_before_anything_is_written() {
    let script = || Script::inline("true");
    let two = || Experiment::new("x").add("a", script()).add("b", script());
    let cases: Vec<(Experiment, &str)> = vec![
        (Experiment::new("x"), "the experiment has no tasks"),
        (Experiment::new("a/b").add("a", script()), "must not contain '/'"),
        (Experiment::new("x").add("..", script()), "must not begin with `.`"),
        (Experiment::new("x").add("a\0", script()), "must not contain '\\0'"),
        (Experiment::new("x").add("n".repeat(300), script()), "longer than 128 bytes"),
        (Experiment::new("n".repeat(91)).add("a", script()), "longer than 90 bytes"),
        (two().depends_on("a", "a"), "cannot wait for itself"),
        (two().depends_on("a", "c"), "there is no task `c`"),
        (two().depends_on("c", "a"), "add it first"),
        (
            two().depends_on("a", "b").depends_on("b", "a"),
            "wait for each other: `a` for `b` for `a`",
        ),
        (two().max_parallel(0), "`max_parallel` is 0"),
        (Experiment::new("x").add("a", Script::default()), "the script has no text"),
        (Experiment::new("x").add("a", script().args(["\0"])), "NUL"),
        (
            Experiment::new("x").add("a", script().env("HF_TOKEN", "hf_abc")),
            "looks like a secret",
        ),
        (Experiment::new("x").add("a", script().entrypoint(" ")), "`entrypoint` is empty"),
        (Experiment::new("x").add("a", Script::path("nowhere.sh")), "does not exist"),
    ];
    for (experiment, expect) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = experiment.run(options(dir.path())).unwrap_err();
        assert!(error.to_string().contains(expect), "{expect}: {error}");
        assert!(!error.to_string().contains("hf_abc"), "{error}");
        assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{expect}: nothing is written");
    }
}
