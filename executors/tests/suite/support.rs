//! A plan of `neva_tiny`, and jobs whose ranks are shell scripts.

use std::{fs, path::Path, time::Duration};

use neva_executors::{Executor, JobHandle, JobState, LocalExecutor, Payload, Process, Processes, Submission};
use neva_recipes::neva_tiny;
use neva_schemas::{LaunchPlan, PLAN_FORMAT, RecipeArgs, Run};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

/// Deadline of every wait in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) fn plan(run_dir: &Path, num_nodes: u32, ranks_per_node: u32) -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes,
        num_gpus_per_node: ranks_per_node,
        ..neva_tiny::default_args()
    };
    let run = Run::new("neva_tiny", args.clone(), neva_tiny::finetune_recipe(args));
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "0.0.0".into(),
        name: "default".into(),
        run_dir: run_dir.to_owned(),
        num_nodes,
        ranks_per_node,
        env: [("GREETING".to_owned(), "two words".to_owned())].into(),
        run,
    }
}

/// A temporary folder, an executor and its submission.
pub(crate) struct Job {
    _dir: TempDir,
    pub(crate) executor: LocalExecutor,
    pub(crate) submission: Submission,
}

impl Job {
    /// Creates a job of `ranks` shells that run `script` in the job's folder. All have time to exit on their own.
    pub(crate) fn new(ranks: u32, script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let executor = LocalExecutor {
            settle: DEADLINE,
            grace: DEADLINE,
            ..LocalExecutor::new("unused")
        };
        let mut submission = executor.render(&plan(&dir.path().join("run"), 1, ranks)).expect("a plan that fits");
        let cd = format!("cd '{}'\n{script}", submission.dir.display());
        for process in processes(&mut submission) {
            process.argv = ["/bin/sh", "-c", &cd].map(str::to_owned).to_vec();
        }
        Self {
            _dir: dir,
            executor,
            submission,
        }
    }

    /// Creates the same job with short timeouts.
    pub(crate) fn with_short_timeouts(ranks: u32, script: &str) -> Self {
        let mut job = Self::new(ranks, script);
        (job.executor.settle, job.executor.grace) = (Duration::from_secs(2), Duration::from_secs(1));
        job
    }

    pub(crate) async fn submit(&self) -> JobHandle {
        self.executor.submit(&self.submission).await.expect("it starts")
    }

    /// Waits for the job's end.
    pub(crate) async fn end(&self, handle: &JobHandle) -> JobState {
        let ended = async {
            let mut tick = interval(Duration::from_millis(5));
            loop {
                tick.tick().await;
                let state = self.executor.status(handle).await.expect("a status").state;
                if state.is_end() {
                    return state;
                }
            }
        };
        timeout(DEADLINE, ended).await.expect("it ends in time")
    }

    /// Waits until `file` in the job's folder has `lines` lines, and returns its text.
    pub(crate) async fn lines(&self, file: &str, lines: usize) -> String {
        let written = async {
            let mut tick = interval(Duration::from_millis(5));
            loop {
                tick.tick().await;
                let text = fs::read_to_string(self.submission.dir.join(file)).unwrap_or_default();
                if text.lines().count() >= lines && text.ends_with('\n') {
                    return text;
                }
            }
        };
        timeout(DEADLINE, written)
            .await
            .unwrap_or_else(|_| panic!("{file} has {lines} lines in time"))
    }

    /// Runs the job to its end.
    pub(crate) async fn run(&self) -> JobState {
        let handle = self.submit().await;
        self.end(&handle).await
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.submission.dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

/// Returns the processes of a local job.
pub(crate) fn processes(submission: &mut Submission) -> &mut Vec<Process> {
    &mut local(submission).processes
}

/// Returns the payload of a local job.
pub(crate) fn local(submission: &mut Submission) -> &mut Processes {
    match &mut submission.payload {
        Payload::Processes(processes) => processes,
        other => panic!("{other:?}"),
    }
}

/// Returns true if the process exists and is not a zombie.
pub(crate) fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}
