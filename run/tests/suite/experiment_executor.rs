//! Experiments from Rust and their executors: ranks, tasks with their own executor, and what later programs can read.

use std::{
    fs,
    io::Write as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{
    BoxFuture, ExecutorError, JobEvents, JobHandle, JobResults, JobState, JobStatus, LogChunk, PollInterval, Submission, WatchFrom, poll,
};
use neva_run::{Change, Experiment, ExperimentError, RunError, Store, TaskState};
use neva_schemas::{ExecutorConfig, LaunchPlan, LocalExecutorConfig, Script, ScriptPlan, StopSignal, Task, exit_class};

use crate::{
    experiment::{options, states},
    fake_rank,
};

#[test]
fn a_fine_tune_returns_its_report() {
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
    // Its folder is within the experiment's, unless it names one.
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
fn each_task_may_have_its_own_executor() {
    let on = |value: &str, retries| Task {
        executor: Some(ExecutorConfig::Local(LocalExecutorConfig {
            env_vars: [("WHERE".to_owned(), value.to_owned())].into(),
            retries,
            ..LocalExecutorConfig::default()
        })),
        ..Task::new(Script::inline(
            r#"echo "$WHERE" >> "$NEVA_EXPERIMENT_DIR/$NEVA_TASK"; [ "$WHERE" != bad ]"#,
        ))
    };
    let dir = tempfile::tempdir().unwrap();
    let own = LocalExecutorConfig {
        env_vars: [("WHERE".to_owned(), "default".to_owned())].into(),
        ..LocalExecutorConfig::default()
    };
    let here = Task::new(Script::inline(r#"echo "$WHERE" >> "$NEVA_EXPERIMENT_DIR/$NEVA_TASK""#));
    let experiment = Experiment::new("own").add("a", on("left", 0)).add("b", on("bad", 1)).add("c", here);
    let error = experiment
        .run(options(dir.path()).executor(ExecutorConfig::Local(own)))
        .unwrap_err();
    let RunError::Experiment(ExperimentError::Failed(report)) = error else {
        panic!("{error}")
    };
    let seen: Vec<_> = ["a", "b", "c"]
        .map(|task| fs::read_to_string(report.dir.join(task)).unwrap())
        .into();
    assert_eq!(seen, ["left\n", "bad\nbad\n", "default\n"]);
}

/// A cluster in a folder, whose jobs do not need their launcher: a job ends when its file holds its state. The task
/// `bad` is rejected, and for `bug` the executor panics.
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

    fn create_folder<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<PathBuf, ExecutorError>> {
        Box::pin(async move { neva_executors::create_run_folder(dir) })
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

    fn watch<'a>(&'a self, job: &'a JobHandle, from: WatchFrom) -> JobEvents<'a> {
        let (first, max) = (Duration::from_millis(2), Duration::from_millis(20));
        poll(
            self,
            job,
            from,
            PollInterval {
                first,
                max,
                max_status: max,
            },
        )
    }

    fn status<'a>(&'a self, job: &'a JobHandle) -> BoxFuture<'a, Result<JobStatus, ExecutorError>> {
        Box::pin(async move {
            Ok(JobStatus::from(match fs::read_to_string(self.file(job)).as_deref() {
                Ok("succeeded") => JobState::Succeeded,
                Ok("cancelled") => JobState::Cancelled,
                _ => JobState::Running,
            }))
        })
    }

    fn results<'a>(&'a self, _: &'a JobHandle) -> BoxFuture<'a, Result<JobResults, ExecutorError>> {
        Box::pin(async { Ok(JobResults::default()) })
    }

    fn logs<'a>(&'a self, _: &'a JobHandle, _: u32, offset: u64) -> BoxFuture<'a, Result<LogChunk, ExecutorError>> {
        Box::pin(async move {
            Ok(LogChunk {
                bytes: Vec::new(),
                next: offset,
            })
        })
    }

    fn cancel<'a>(&'a self, job: &'a JobHandle, _signal: StopSignal) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            fs::write(self.file(job), "cancelled").unwrap();
            Ok(())
        })
    }
}

#[test]
fn an_executor_that_fails_or_panics_fails_its_task_only() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["good", "other"] {
        fs::write(dir.path().join(name), "succeeded").unwrap();
    }
    let script = || Script::inline("true");
    let error = Experiment::new("bug")
        .add("bug", script())
        .add("good", script())
        .add("after", script())
        .depends_on("after", "bug")
        .add_group("pair", [("other".to_owned(), script()), ("bad".to_owned(), script())])
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
fn resume_attaches_to_jobs_that_outlived_their_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = || Arc::new(Cluster(dir.path().to_owned()));
    fs::write(dir.path().join("done"), "succeeded").unwrap();
    let experiment = Experiment::new("outlive")
        .add("done", Script::inline("true"))
        .add("lives", Script::inline("true"))
        .add("after", Script::inline("true"))
        .depends_on("after", "lives");
    // The launcher panics, which leaves the same state as a kill.
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
    // No task is submitted twice, except perhaps `done`, whose end was not recorded.
    assert_eq!(names.iter().filter(|name| **name == "lives").count(), 1, "{submitted}");
    assert_eq!(names.iter().filter(|name| **name == "after").count(), 1, "{submitted}");

    // `resume` keeps tasks that succeeded; `rerun` runs all tasks again as a new experiment.
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
    let shown = submission.processes()[0].to_string();
    assert!(shown.ends_with(&format!("bash -eu {}/script 'x y'", folder.display())), "{shown}");
    assert!(shown.contains("A='1 2' ") && shown.starts_with("cd "), "{shown}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_later_program_reads_output_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let report = Experiment::new("later")
        .add("a", Script::inline("echo hello; echo there >&2"))
        .run(options(dir.path()))
        .unwrap();
    let folder = Store::new(dir.path().join("home")).find(&report.id).unwrap();
    assert_eq!(folder.output("a").unwrap(), b"hello\nthere\n");
    let error = folder.output("b").unwrap_err();
    assert_eq!(
        (error.exit_code(), error.advice().as_deref()),
        (exit_class::INPUT, Some("write one of a"))
    );
    let error = folder.cancel(None).unwrap_err();
    assert!(error.to_string().contains("is not running"), "{error}");
}

#[test]
fn output_is_forwarded_with_the_name_of_its_task() {
    let dir = tempfile::tempdir().unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&received);
    let options = options(dir.path()).on_output(move |task, bytes| {
        sink.lock()
            .unwrap()
            .push((task.to_owned(), String::from_utf8_lossy(bytes).into_owned()));
    });
    let experiment = Experiment::new("output")
        .add("a", Script::inline("echo one"))
        .add("b", Script::inline("echo two >&2"));
    experiment.run(options).unwrap();
    let mut received = received.lock().unwrap().clone();
    received.sort();
    assert_eq!(
        received,
        [("a".to_owned(), "one\n".to_owned()), ("b".to_owned(), "two\n".to_owned())]
    );
}
