//! Event loop of an experiment: starts the tasks that are ready and persists every state change before acting on it.
//! Each task is a [`job`](crate::job) that sends its changes to this loop and receives stop requests from it.

mod scheduler;
mod task_job;
mod task_set_job;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::{JobHandle, JobState};
use neva_schemas::StopSignal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use self::task_job::Message;
use super::{
    event::{Change, EVENTS_FORMAT},
    journal::Journal,
    lower::Lowering,
    machine::Machine,
    plugin::Plugin,
    record::ExperimentRecord,
    report::{ExperimentReport, TaskReport, TaskState},
    resources::Resources,
    task_graph::TaskGraph,
    task_sets::TaskSets,
};
use crate::{
    error::RunError,
    job::{self, StopRequests},
    preflight::Preflight,
};

/// Interval at which the folder is polled for cancel requests.
const TICK: Duration = Duration::from_millis(100);

/// Callback for the output of tasks: the task's name, and bytes.
pub(super) type Output = Arc<Mutex<dyn FnMut(&str, &[u8]) + Send>>;

/// A running experiment.
pub(super) struct Runner {
    lowering: Lowering,
    record: ExperimentRecord,
    graph: TaskGraph,
    sets: TaskSets,
    tasks: Vec<TaskReport>,
    /// Jobs of an earlier launch that are still alive, by task.
    attached: Vec<Option<JobHandle>>,
    /// Jobs that the executor cancelled although nobody asked for it: tasks whose parents have to tell why.
    undecided: BTreeSet<usize>,
    /// Senders of stop requests to running tasks.
    stops: Vec<Option<watch::Sender<StopRequests>>>,
    /// Offset of this launcher's first request in the file of cancel requests.
    requests_from: u64,
    resources: Resources,
    preflight: Preflight,
    /// Requests to stop this launcher.
    requests: watch::Receiver<StopRequests>,
    /// The whole experiment was cancelled.
    cancelled: bool,
    journal: Journal,
    output: Option<Output>,
    plugins: Vec<Arc<dyn Plugin>>,
    jobs: JoinSet<()>,
    sender: mpsc::UnboundedSender<(usize, Message)>,
    messages: mpsc::UnboundedReceiver<(usize, Message)>,
}

impl Runner {
    pub(super) fn new(
        lowering: Lowering,
        record: ExperimentRecord,
        journal: Journal,
        plugins: Vec<Arc<dyn Plugin>>,
        requests_from: u64,
        requests: watch::Receiver<StopRequests>,
    ) -> Self {
        let experiment = &record.experiment;
        let resources = Resources::new(experiment, &record.executor, lowering.through.is_some(), Machine::local());
        let (sender, messages) = mpsc::unbounded_channel();
        Self {
            graph: TaskGraph::new(experiment),
            sets: TaskSets::new(experiment, &record.executor),
            tasks: experiment.tasks.keys().map(|name| TaskReport::new(name)).collect(),
            attached: vec![None; experiment.tasks.len()],
            undecided: BTreeSet::new(),
            stops: vec![None; experiment.tasks.len()],
            requests_from,
            resources,
            preflight: Preflight::new(record.working_directory.clone()),
            requests,
            cancelled: false,
            journal,
            output: None,
            plugins,
            jobs: JoinSet::new(),
            sender,
            messages,
            lowering,
            record,
        }
    }

    /// Sets the callback for the output of tasks.
    #[must_use]
    pub(super) fn output(mut self, output: Option<Output>) -> Self {
        self.output = output;
        self
    }

    /// Restores the state that an earlier launch left: keeps tasks that succeeded, attaches to jobs that are alive, and
    /// resets all others.
    pub(super) async fn resume(&mut self, earlier: Vec<TaskReport>) {
        for (index, mut task) in earlier.into_iter().enumerate() {
            if task.state == TaskState::Pending
                && let Some(job) = self.unrecorded_job(&task.name, index).await
            {
                task.attempts = task.attempts.max(1);
                task.job = Some(job.clone());
                self.note(Some(index), Change::Submitted { attempt: 1, job });
                task.state = TaskState::Running;
            }
            let is_alive = match (&task.state, &task.job) {
                (TaskState::Running, Some(job)) => match self.lowering.executor(&self.record, &self.record.experiment.tasks[index]) {
                    Ok(executor) => {
                        let status = executor.status(job).await;
                        status.is_ok_and(|status| !matches!(status.state, JobState::Failed(_) | JobState::Cancelled))
                    }
                    Err(_) => false,
                },
                _ => false,
            };
            if task.state == TaskState::Succeeded {
                self.tasks[index] = task;
            } else if is_alive {
                self.attached[index] = task.job.clone();
                self.tasks[index] = TaskReport {
                    state: TaskState::Pending,
                    ..task
                };
            } else if task.state != TaskState::Pending {
                self.note(Some(index), Change::Reset);
            }
        }
    }

    /// Returns the job of a task that an earlier launcher submitted, if it was killed before it recorded that.
    async fn unrecorded_job(&self, name: &str, index: usize) -> Option<JobHandle> {
        let dir = self.lowering.folder.submitted_dir(name)?;
        let executor = self.lowering.executor(&self.record, &self.record.experiment.tasks[index]).ok()?;
        let job = executor.find_job(&dir).await.ok()??;
        let status = executor.status(&job).await.ok()?;
        (!matches!(status.state, JobState::Failed(_) | JobState::Cancelled)).then_some(job)
    }

    /// Runs every task to its end.
    ///
    /// # Errors
    /// The events cannot be written. The tasks run to their end all the same.
    pub(super) async fn run(mut self) -> Result<ExperimentReport, RunError> {
        let mut requests = self.requests.clone();
        let pid = std::process::id();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.note(
            None,
            Change::Launched {
                format: EVENTS_FORMAT,
                pid,
                version,
            },
        );
        // Jobs that are running already skip the readiness check.
        for index in 0..self.tasks.len() {
            if self.attached[index].is_some() {
                self.start(index).await;
            }
        }
        let mut offset = self.requests_from;
        loop {
            self.schedule().await;
            self.journal.write();
            if self.resources.running() == 0 {
                break;
            }
            tokio::select! {
                Some(message) = self.messages.recv() => {
                    self.handle(message);
                    // Changes that arrive together are written together.
                    while let Ok(message) = self.messages.try_recv() {
                        self.handle(message);
                    }
                }
                () = job::next_request(&mut requests) => {
                    let signal = requests.borrow_and_update().signal;
                    self.cancel_all(signal);
                }
                () = sleep(TICK) => {
                    let (lines, next) = self.lowering.folder.cancel_requests(offset);
                    offset = next;
                    for line in lines {
                        match self.tasks.iter().position(|task| task.name == line) {
                            Some(task) => self.cancel(task),
                            None if line.is_empty() => self.cancel_all(StopSignal::Terminate),
                            None => tracing::warn!(task = line, "cancel request for an unknown task"),
                        }
                    }
                }
            }
        }
        let report = ExperimentReport {
            id: self.lowering.folder.id.clone(),
            dir: self.lowering.folder.dir.clone(),
            tasks: std::mem::take(&mut self.tasks),
        };
        self.note(None, Change::Finished { class: report.exit_code() });
        self.journal.close().map(|()| report)
    }

    fn note(&mut self, task: Option<usize>, change: Change) {
        self.journal.note(task.map(|index| self.tasks[index].name.clone()), change);
    }
}
