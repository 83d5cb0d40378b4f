//! Fixture of the contract's cases.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use neva_executors::{Executor, JobEnd, JobEvent, JobHandle, JobState, JobStatus, WatchFrom};
use neva_recipes::neva_tiny;
use neva_schemas::{LaunchPlan, PLAN_FORMAT, RecipeArgs, Run, ScriptPlan};
use tokio::time::{sleep, timeout};

/// Deadline of every wait in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// An environment for jobs, set up by the tests of an executor.
pub(crate) trait Fixture: Send + Sync {
    /// Returns a new executor, as for a new launcher. Its rank program runs the shell text `ranks` in the job's folder.
    fn executor(&self, ranks: &str) -> Arc<dyn Executor>;

    /// Returns the absolute folder of jobs, as seen by the ranks.
    fn jobs(&self) -> PathBuf;

    /// Returns the text of a file as seen by the ranks; empty if there is none.
    fn read(&self, path: &Path) -> String;

    /// Writes a file that the ranks see.
    fn write(&self, path: &Path, text: &str);

    /// Loses the next connections, each before or after its request takes effect. Returns false for an executor without
    /// connections.
    fn lose(&self, _losses: &[Loss]) -> bool {
        false
    }

    /// Returns true if jobs continue when their launcher is killed.
    fn outlives_launcher(&self) -> bool;
}

/// Rank programs that a fixture has made.
#[derive(Default)]
pub(crate) struct Programs {
    texts: Mutex<Vec<String>>,
}

impl Programs {
    /// Returns the program in `dir` that runs `ranks` in the job's folder, and makes it with `write` the first time. The same text
    /// gives the same program, for every launcher.
    pub(crate) fn program(&self, dir: &Path, ranks: &str, write: impl FnOnce(&Path, &str)) -> PathBuf {
        let mut texts = self.texts.lock().unwrap();
        let known = texts.iter().position(|known| known == ranks);
        let program = dir.join(format!("rank-{}", known.unwrap_or(texts.len())));
        if known.is_none() {
            texts.push(ranks.to_owned());
            // Its arguments are `train --plan RUN/plan.json`.
            write(&program, &format!("#!/bin/sh\ncd \"${{3%/*}}\" || exit 4\n{ranks}\n"));
        }
        program
    }
}

/// Loss of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The request does not arrive.
    OfRequest,
    /// The request takes effect, and the reply does not arrive.
    OfReply,
}

/// Runs one case, with a deadline.
pub(crate) fn run(name: &str, fixture: impl Fixture, case: impl AsyncFnOnce(&dyn Fixture)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async { timeout(DEADLINE, case(&fixture)).await });
    assert!(ended.is_ok(), "{name} hung for {DEADLINE:?}");
}

/// Returns a plan of `ranks` ranks in the folder `name`.
pub(crate) fn plan(fixture: &dyn Fixture, name: &str, ranks: u32) -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes: 1,
        num_gpus_per_node: ranks,
        ..neva_tiny::default_args()
    };
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "0.0.0".into(),
        name: name.into(),
        run_dir: fixture.jobs().join(name),
        num_nodes: 1,
        ranks_per_node: ranks,
        env: BTreeMap::new(),
        run: Run::new("neva_tiny", args.clone(), neva_tiny::finetune_recipe(args)),
    }
}

/// Returns a script in the folder `name`.
pub(crate) fn script(fixture: &dyn Fixture, name: &str, text: &str) -> ScriptPlan {
    ScriptPlan {
        name: name.into(),
        run_dir: fixture.jobs().join(name),
        working_directory: fixture.jobs(),
        text: text.into(),
        entrypoint: vec!["sh".into()],
        args: vec!["an argument".into()],
        env: [("GREETING".to_owned(), "two words".to_owned())].into(),
    }
}

/// A submitted job.
pub(crate) struct Job<'a> {
    pub(crate) fixture: &'a dyn Fixture,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) handle: JobHandle,
    pub(crate) dir: PathBuf,
}

impl<'a> Job<'a> {
    /// Submits a job of `ranks` ranks that run the shell text `text` in the folder `name`.
    pub(crate) async fn submit(fixture: &'a dyn Fixture, name: &str, ranks: u32, text: &str) -> Self {
        let executor = fixture.executor(text);
        let submission = executor.render(&plan(fixture, name, ranks)).unwrap();
        let handle = executor.submit(&submission).await.unwrap();
        Self {
            fixture,
            executor,
            handle,
            dir: submission.dir,
        }
    }

    /// Submits a script.
    pub(crate) async fn submit_script(fixture: &'a dyn Fixture, name: &str, text: &str) -> Self {
        let executor = fixture.executor("exit 9");
        let submission = executor.render_script(&script(fixture, name, text)).unwrap();
        let handle = executor.submit(&submission).await.unwrap();
        Self {
            fixture,
            executor,
            handle,
            dir: submission.dir,
        }
    }

    /// Watches the job from its start to its end.
    pub(crate) async fn watch(&self) -> Watched {
        Watched::of(&*self.executor, &self.handle, WatchFrom::rank0()).await
    }

    /// Waits until `file` of the job contains `text`.
    pub(crate) async fn wait_for(&self, file: &str, text: &str) {
        let path = self.dir.join(file);
        while !self.fixture.read(&path).contains(text) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Writes `file`, for which ranks wait.
    pub(crate) fn write(&self, file: &str) {
        self.fixture.write(&self.dir.join(file), "go\n");
    }
}

/// Everything that a watch reported.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) statuses: Vec<JobStatus>,
    /// Output by rank.
    pub(crate) output: BTreeMap<u32, String>,
    pub(crate) losses: usize,
    pub(crate) restorations: usize,
    pub(crate) end: JobEnd,
}

impl Watched {
    /// Watches a job to its end.
    pub(crate) async fn of(executor: &dyn Executor, handle: &JobHandle, from: WatchFrom) -> Self {
        Self::of_each(executor, handle, from, |_| {}).await
    }

    /// Watches a job to its end, and passes each status on.
    pub(crate) async fn of_each(
        executor: &dyn Executor,
        handle: &JobHandle,
        from: WatchFrom,
        mut on_status: impl FnMut(&JobStatus),
    ) -> Self {
        let mut offsets = from.0.clone();
        let mut events = executor.watch(handle, from);
        let (mut statuses, mut output) = (Vec::new(), BTreeMap::<u32, String>::new());
        let (mut losses, mut restorations) = (0, 0);
        while let Some(event) = events.next().await {
            match event.unwrap() {
                JobEvent::Status(status) => {
                    on_status(&status);
                    statuses.push(status);
                }
                JobEvent::Output { rank, bytes, next } => {
                    let offset = offsets.get_mut(&rank).expect("a requested rank");
                    *offset += bytes.len() as u64;
                    assert_eq!(next, *offset, "the next byte of rank {rank}");
                    output
                        .entry(rank)
                        .or_default()
                        .write_str(std::str::from_utf8(&bytes).unwrap())
                        .unwrap();
                }
                JobEvent::ConnectionLost { .. } => losses += 1,
                JobEvent::ConnectionRestored => restorations += 1,
                JobEvent::Ended(end) => {
                    assert!(events.next().await.is_none(), "the end is the last event");
                    return Self {
                        statuses,
                        output,
                        losses,
                        restorations,
                        end: *end,
                    };
                }
            }
        }
        panic!("the watch ended before the job: {statuses:?}");
    }

    /// Returns the output of rank 0.
    pub(crate) fn text(&self) -> &str {
        self.output.get(&0).map_or("", String::as_str)
    }

    /// Returns the failure of the job.
    #[track_caller]
    pub(crate) fn failure(&self) -> &neva_executors::JobFailure {
        match &self.end.state {
            JobState::Failed(failure) => failure,
            state => panic!("{state:?}"),
        }
    }
}
