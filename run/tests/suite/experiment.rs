//! Experiments from Rust: which tasks run, in what order, and what becomes of the whole.

use std::{
    fs,
    io::Write as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use neva_executors::{BoxFuture, ExecutorError, JobHandle, JobState, LogChunk, Submission};
use neva_run::{Change, Experiment, ExperimentError, ExperimentOptions, ExperimentReport, Plugin, RunError, Store, TaskReport, TaskState};
use neva_schemas::{Executor, LaunchPlan, LocalExecutor, Script, ScriptPlan, Task, When, exit_class};
use tempfile::TempDir;

use crate::fake_rank;

fn options(dir: &Path) -> ExperimentOptions {
    ExperimentOptions::default()
        .store(Store::new(dir.join("home")))
        .working_directory(dir)
}

/// Runs it in a folder of its own; the report, whether it ended well or not.
fn run(experiment: Experiment) -> (ExperimentReport, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let report = match experiment.run(options(dir.path())) {
        Ok(report) => report,
        Err(RunError::Experiment(ExperimentError::Failed(report))) => *report,
        Err(error) => panic!("{error}"),
    };
    (report, dir)
}

fn states(report: &ExperimentReport) -> Vec<&str> {
    report.tasks.iter().map(|task| task.state.name()).collect()
}

fn retries(retries: u32, script: Script) -> Task {
    let local = LocalExecutor {
        retries,
        ..LocalExecutor::default()
    };
    Task {
        executor: Some(Executor::Local(local)),
        ..Task::new(script)
    }
}

#[test]
fn an_edge_says_how_the_parent_must_have_ended() {
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
        assert_eq!(report.class(), u8::from(script != "exit 0"), "{script} {when:?}");
    }
}

#[test]
fn a_failure_goes_down_the_chain_and_leaves_the_rest_alone() {
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
fn a_group_ends_early_only_on_failure() {
    let group = |first: &str, second: &str| {
        let tasks = [("first", first), ("second", second)].map(|(name, text)| (name.to_owned(), Script::inline(text)));
        run(Experiment::new("group")
            .add_group("pair", tasks)
            .add("after", Script::inline("true"))
            .depends_on("after", "pair"))
    };
    // The second sees the end of the first, and goes on.
    let wait = r#"while [ ! -e "$NEVA_EXPERIMENT_DIR/done" ]; do read -rt 0.01 <> <(:) || :; done"#;
    let (report, _dir) = group(r#"touch "$NEVA_EXPERIMENT_DIR/done""#, wait);
    assert_eq!(states(&report), ["succeeded", "succeeded", "succeeded"]);
    // The first fails, and the second, which would never end, is ended.
    let (report, _dir) = group("exit 1", "while :; do read -rt 0.05 <> <(:) || :; done");
    assert_eq!(states(&report), ["failed", "cancelled", "skipped"]);
    assert_eq!(report.class(), exit_class::JOB);
}

#[test]
fn a_sequential_experiment_does_one_task_at_a_time_until_one_fails() {
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
fn no_more_tasks_run_than_may() {
    // Each fails where it sees more than two of its kind.
    let text = r#"cd "$NEVA_EXPERIMENT_DIR"; touch "run.$NEVA_TASK"; n=$(ls run.* | wc -l); read -rt 0.02 <> <(:) || :; rm "run.$NEVA_TASK"; [ "$n" -le 2 ]"#;
    let mut experiment = Experiment::new("few").max_parallel(2);
    for number in 0..12 {
        experiment = experiment.add(format!("t{number}"), Script::inline(text));
    }
    let (report, _dir) = run(experiment);
    assert!(states(&report).iter().all(|state| *state == "succeeded"), "{:?}", states(&report));
}

#[test]
fn the_class_is_that_of_the_first_failure_by_time() {
    let experiment = Experiment::new("first")
        .add("late", Script::inline("exit 1"))
        .add("early", Script::inline("no-such-program-anywhere"))
        .depends_on_when("late", When::AfterAny, "early");
    let (report, _dir) = run(experiment);
    assert_eq!(report.class(), exit_class::CLUSTER);
    assert_eq!(report.first_failure().unwrap().0.name, "early");
}

#[test]
fn environment_and_arguments_arrive_as_they_are() {
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
fn a_script_file_runs_as_it_was_when_the_experiment_was_started() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("second.py"), "print('old')").unwrap();
    let experiment = Experiment::new("file")
        .add("first", Script::inline("echo \"print('new')\" > second.py"))
        .add("second", Script::path("second.py").entrypoint("python3 -u"))
        .depends_on("second", "first");
    let report = experiment.run(options(dir.path())).unwrap();
    assert_eq!(fs::read_to_string(report.dir.join("tasks/second/logs/rank0.log")).unwrap(), "old\n");
}

/// Gives every task an executor with a variable, and hears of every end.
#[derive(Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Plugin for Recorder {
    fn before_launch(&self, name: &str, task: &mut Task) -> Result<(), RunError> {
        let env_vars = [("FROM_PLUGIN".to_owned(), name.to_owned())].into();
        task.executor = Some(Executor::Local(LocalExecutor {
            env_vars,
            ..LocalExecutor::default()
        }));
        Ok(())
    }

    fn after_end(&self, task: &TaskReport) {
        self.0.lock().unwrap().push(format!("{} {}", task.name, task.state.name()));
    }
}

#[test]
fn plugins_change_tasks_and_hear_of_their_end() {
    let recorder = Recorder::default();
    let heard = Arc::clone(&recorder.0);
    let experiment = Experiment::new("plugin")
        .add("a", Script::inline("[ \"$FROM_PLUGIN\" = a ] && exit 9"))
        .add("b", Script::inline("true"))
        .depends_on("b", "a")
        .plugin(recorder);
    let (report, _dir) = run(experiment);
    assert_eq!(states(&report), ["failed", "skipped"]);
    assert_eq!(*heard.lock().unwrap(), ["a failed", "b skipped"]);
}

#[test]
fn what_happens_is_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let options = options(dir.path()).on_event(move |event| sink.lock().unwrap().push(event.clone()));
    let report = Experiment::new("events").add("a", Script::inline("true")).run(options).unwrap();
    let told = told.lock().unwrap();
    let words: Vec<_> = told
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
    // The store tells the same.
    let status = Store::new(dir.path().join("home")).find(&report.id).unwrap().status().unwrap();
    assert_eq!((status.name(), &status.report), ("succeeded", &report));
}

#[test]
fn what_is_no_experiment_is_refused_before_anything_is_written() {
    let script = || Script::inline("true");
    let two = || Experiment::new("x").add("a", script()).add("b", script());
    let cases: Vec<(Experiment, &str)> = vec![
        (Experiment::new("x"), "the experiment has no tasks"),
        (Experiment::new("a/b").add("a", script()), "may not hold '/'"),
        (Experiment::new("x").add("..", script()), "may not begin with `.`"),
        (Experiment::new("x").add("a\0", script()), "may not hold '\\0'"),
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
        (Experiment::new("x").add("a", Script::path("nowhere.sh")), "is not there"),
    ];
    for (experiment, expect) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = experiment.run(options(dir.path())).unwrap_err();
        assert!(error.to_string().contains(expect), "{expect}: {error}");
        assert!(!error.to_string().contains("hf_abc"), "{error}");
        assert_eq!(error.class(), exit_class::INPUT, "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{expect}: nothing is written");
    }
}

#[test]
fn a_fine_tune_gives_its_report() {
    let finetune = || {
        let mut finetune = neva_recipes::neva_tiny::finetune_recipe(neva_recipes::neva_tiny::default_args());
        finetune.trainer.max_steps = Some(5);
        finetune
    };
    let dir = tempfile::tempdir().unwrap();
    let report = Experiment::new("typed")
        .add("train", finetune())
        .add("after", Script::inline("true"))
        .depends_on("after", "train")
        .run(options(dir.path()).through(Arc::new(neva_executors::LocalExecutor::new(fake_rank()))))
        .unwrap();
    assert_eq!(states(&report), ["succeeded", "succeeded"]);
    let train = report.tasks[0].report.as_ref().unwrap();
    assert_eq!((train.steps, train.losses.as_slice()), (5, [7.5, 0.25].as_slice()));
    // Its folder is the experiment's, unless it names one.
    assert_eq!(train.run_dir, report.dir.join("tasks/train"));
    let elsewhere = || {
        let mut finetune = finetune();
        finetune.log.log_dir = Some("runs".into());
        finetune.log.name = "mine".into();
        finetune
    };
    let report = Experiment::new("typed")
        .add("a", elsewhere())
        .add("b", elsewhere())
        .run(options(dir.path()).through(Arc::new(neva_executors::LocalExecutor::new(fake_rank()))))
        .unwrap();
    for task in &report.tasks {
        let run_dir = &task.report.as_ref().unwrap().run_dir;
        assert_eq!(*run_dir, dir.path().join("runs/mine").join(format!("{}_{}", report.id, task.name)));
    }
}

#[test]
fn each_task_may_have_an_executor_of_its_own() {
    let on = |value: &str, retries| Task {
        executor: Some(Executor::Local(LocalExecutor {
            env_vars: [("WHERE".to_owned(), value.to_owned())].into(),
            retries,
            ..LocalExecutor::default()
        })),
        ..Task::new(Script::inline(
            r#"echo "$WHERE" >> "$NEVA_EXPERIMENT_DIR/$NEVA_TASK"; [ "$WHERE" != bad ]"#,
        ))
    };
    let dir = tempfile::tempdir().unwrap();
    let own = LocalExecutor {
        env_vars: [("WHERE".to_owned(), "default".to_owned())].into(),
        ..LocalExecutor::default()
    };
    let here = Task::new(Script::inline(r#"echo "$WHERE" >> "$NEVA_EXPERIMENT_DIR/$NEVA_TASK""#));
    let experiment = Experiment::new("own").add("a", on("left", 0)).add("b", on("bad", 1)).add("c", here);
    let error = experiment.run(options(dir.path()).executor(Executor::Local(own))).unwrap_err();
    let RunError::Experiment(ExperimentError::Failed(report)) = error else {
        panic!("{error}")
    };
    let seen: Vec<_> = ["a", "b", "c"]
        .map(|task| fs::read_to_string(report.dir.join(task)).unwrap())
        .into();
    assert_eq!(seen, ["left\n", "bad\nbad\n", "default\n"]);
}

#[test]
fn scripts_are_not_given_the_program_of_a_rust_launcher() {
    let (report, _dir) = run(Experiment::new("launcher").add("a", Script::inline(r#"echo "<$NEVA_RUN>""#)));
    assert_eq!(fs::read_to_string(report.dir.join("tasks/a/logs/rank0.log")).unwrap(), "<>\n");
}

/// A cluster whose jobs do not need their launcher, in a folder: a job ends when its file says how. The task `bad`
/// is not taken, and at `bug` the executor panics.
struct Cluster(PathBuf);

impl Cluster {
    fn file(&self, job: &JobHandle) -> PathBuf {
        self.0.join(job.0.strip_prefix("cluster://").unwrap())
    }
}

impl neva_executors::Executor for Cluster {
    fn name(&self) -> &'static str {
        "cluster"
    }

    fn render(&self, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
        neva_executors::LocalExecutor::new(fake_rank()).render(plan)
    }

    fn render_script(&self, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
        neva_executors::LocalExecutor::new(fake_rank()).render_script(script)
    }

    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<JobHandle, ExecutorError>> {
        Box::pin(async move {
            let name = submission.dir.file_name().unwrap().to_str().unwrap();
            match name {
                "bad" => {
                    let (program, source) = ("sbatch".to_owned(), std::io::ErrorKind::NotFound.into());
                    return Err(ExecutorError::Start { program, source });
                }
                "bug" => panic!("this executor has a bug"),
                _ => {}
            }
            let log = fs::OpenOptions::new().create(true).append(true).open(self.0.join("submitted"));
            log.unwrap().write_all(format!("{name}\n").as_bytes()).unwrap();
            Ok(JobHandle(format!("cluster://{name}")))
        })
    }

    fn state<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobState, ExecutorError>> {
        Box::pin(async move {
            Ok(match fs::read_to_string(self.file(job)).as_deref() {
                Ok("succeeded") => JobState::Succeeded,
                Ok("cancelled") => JobState::Cancelled,
                _ => JobState::Running,
            })
        })
    }

    fn logs<'a>(&'a self, _: &'a JobHandle, _: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move {
            Ok(LogChunk {
                bytes: Vec::new(),
                next: offset,
            })
        })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            fs::write(self.file(job), "cancelled").unwrap();
            Ok(())
        })
    }
}

#[test]
fn an_executor_that_fails_or_panics_fails_its_task_only() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["good", "mate"] {
        fs::write(dir.path().join(name), "succeeded").unwrap();
    }
    let script = || Script::inline("true");
    let error = Experiment::new("bug")
        .add("bug", script())
        .add("good", script())
        .add("after", script())
        .depends_on("after", "bug")
        .add_group("pair", [("mate".to_owned(), script()), ("bad".to_owned(), script())])
        .run(options(dir.path()).through(Arc::new(Cluster(dir.path().to_owned()))))
        .unwrap_err();
    let RunError::Experiment(ExperimentError::Failed(report)) = error else {
        panic!("{error}")
    };
    let class = |index: usize| match &report.tasks[index].state {
        TaskState::Failed(failure) => failure.class,
        state => panic!("{state}"),
    };
    assert_eq!((class(0), class(4)), (exit_class::BUG, exit_class::CLUSTER));
    assert_eq!(report.tasks[0].state.to_string(), "failed: the executor panicked");
    assert_eq!(states(&report)[1..3], ["succeeded", "skipped"]);
}

#[test]
fn who_resumes_watches_jobs_that_outlived_their_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = || Arc::new(Cluster(dir.path().to_owned()));
    fs::write(dir.path().join("done"), "succeeded").unwrap();
    let experiment = Experiment::new("outlive")
        .add("done", Script::inline("true"))
        .add("lives", Script::inline("true"))
        .add("after", Script::inline("true"))
        .depends_on("after", "lives");
    // The launcher stops where it stands, as one that is killed does.
    let listener = |event: &neva_run::Event| {
        assert!(
            !matches!(&event.change, Change::Submitted { .. } if event.task.as_deref() == Some("lives")),
            "killed"
        );
    };
    let killed = std::panic::catch_unwind(AssertUnwindSafe(|| {
        experiment.run(options(dir.path()).through(cluster()).on_event(listener))
    }));
    assert!(killed.is_err());
    let folder = Store::new(dir.path().join("home")).find("outlive").unwrap();
    assert_eq!(folder.status().unwrap().name(), "interrupted");

    for name in ["lives", "after"] {
        fs::write(dir.path().join(name), "succeeded").unwrap();
    }
    let report = folder.resume(options(dir.path()).through(cluster())).unwrap();
    assert_eq!(states(&report), ["succeeded", "succeeded", "succeeded"]);
    let submitted = fs::read_to_string(dir.path().join("submitted")).unwrap();
    let mut names: Vec<_> = submitted.lines().collect();
    names.sort_unstable();
    // None of them twice, but perhaps the one whose end nobody saw.
    assert_eq!(names.iter().filter(|name| **name == "lives").count(), 1, "{submitted}");
    assert_eq!(names.iter().filter(|name| **name == "after").count(), 1, "{submitted}");

    // A failure is done again, what ended well is kept; as a new experiment, all is done again.
    let error = folder.resume(options(dir.path()).through(cluster())).unwrap_err();
    assert!(
        matches!(error, RunError::Experiment(ExperimentError::NothingLeft { .. })),
        "{error}"
    );
    let again = folder.rerun(options(dir.path()).through(cluster())).unwrap();
    assert_eq!(folder.differences().unwrap(), Vec::<String>::new());
    assert_ne!(again.id, report.id);
    assert_eq!(
        fs::read_to_string(dir.path().join("submitted")).unwrap().lines().count(),
        names.len() + 3
    );
}

#[test]
fn a_plan_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::inline("echo $A").entrypoint("bash -eu").args(["x y"]).env("A", "1 2");
    let planned = Experiment::new("plan").add("a", script).plan(options(dir.path())).unwrap();
    let submission = &planned["a"];
    let folder = dir.path().join("home/experiments/plan/ID/tasks/a");
    assert_eq!(submission.dir, folder);
    let shown = submission.processes[0].to_string();
    assert!(shown.ends_with(&format!("bash -eu {}/script 'x y'", folder.display())), "{shown}");
    assert!(shown.contains("A='1 2' ") && shown.starts_with("cd "), "{shown}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn output_and_end_are_there_for_a_later_program() {
    let dir = tempfile::tempdir().unwrap();
    let report = Experiment::new("later")
        .add("a", Script::inline("echo hello; echo there >&2"))
        .run(options(dir.path()))
        .unwrap();
    let folder = Store::new(dir.path().join("home")).find(&report.id).unwrap();
    assert_eq!(folder.output("a").unwrap(), b"hello\nthere\n");
    let error = folder.output("b").unwrap_err();
    assert_eq!(
        (error.class(), error.advice().as_deref()),
        (exit_class::INPUT, Some("write one of a"))
    );
    let error = folder.cancel(None).unwrap_err();
    assert!(error.to_string().contains("nothing of the experiment"), "{error}");
}

#[test]
fn a_name_that_is_taken_gets_a_number() {
    let script = || Script::inline("true");
    let (report, _dir) = run(Experiment::new("twins")
        .add("a", script())
        .add("a_2", script())
        .add("a", script())
        .add("a", script()));
    let names: Vec<_> = report.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["a", "a_2", "a_3", "a_4"]);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("away");
    for (entrypoint, folder, expect, help) in [
        (
            "no-such-program -u",
            dir.path(),
            "cannot start no-such-program in",
            "`entrypoint` names the program",
        ),
        ("bash", &*away, "cannot start bash in", "the folder is not there any more"),
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

#[test]
fn output_is_handed_on_with_its_task() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let options = options(dir.path()).on_output(move |task, bytes| {
        sink.lock()
            .unwrap()
            .push((task.to_owned(), String::from_utf8_lossy(bytes).into_owned()));
    });
    let experiment = Experiment::new("output")
        .add("a", Script::inline("echo one"))
        .add("b", Script::inline("echo two >&2"));
    experiment.run(options).unwrap();
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, [("a".to_owned(), "one\n".to_owned()), ("b".to_owned(), "two\n".to_owned())]);
}
