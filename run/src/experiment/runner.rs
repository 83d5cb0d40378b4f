//! Runs an experiment to its end: one loop that starts what is ready, writes down what happened, and only then goes
//! on. Each task is a [`job`](crate::job) of its own, which tells this loop of its changes and is told to end by it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use neva_executors::JobHandle;
use neva_schemas::RunReport;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    error::ExperimentError,
    event::{Change, EVENTS_FORMAT},
    gate::{Gate, Gates},
    journal::Journal,
    lower::Lowering,
    plugin::Plugin,
    record::ExperimentRecord,
    report::{ExperimentReport, TaskReport, TaskState},
};
use crate::{
    environment,
    error::RunError,
    job::{self, Retry, Watcher},
};

/// How often the folder is asked for requests to end.
const TICK: Duration = Duration::from_millis(100);

/// What takes the output of tasks, as it comes: the task's name, and bytes.
pub(super) type Output = Arc<Mutex<dyn FnMut(&str, &[u8]) + Send>>;

/// A running experiment.
pub(super) struct Runner {
    lowering: Lowering,
    record: ExperimentRecord,
    gates: Gates,
    tasks: Vec<TaskReport>,
    /// Tasks that have a job of an earlier launch, which still lives.
    attached: Vec<Option<JobHandle>>,
    /// Takes requests to end a task that runs.
    ends: Vec<Option<watch::Sender<u32>>>,
    /// Where the requests to this launcher begin in the folder's file of them.
    requests_from: u64,
    running: usize,
    /// Somebody asked for the end of all.
    cancelled: bool,
    journal: Journal,
    output: Option<Output>,
    plugins: Vec<Arc<dyn Plugin>>,
    jobs: JoinSet<()>,
    sender: mpsc::UnboundedSender<(usize, Message)>,
    messages: mpsc::UnboundedReceiver<(usize, Message)>,
}

/// What a job tells.
enum Message {
    Submitted(u32, JobHandle),
    Retried(Retry),
    Ended(Box<Result<Option<RunReport>, RunError>>),
}

/// Tells of a job's end whatever happens: one whose executor panics has ended, too.
struct Ending {
    index: usize,
    sender: mpsc::UnboundedSender<(usize, Message)>,
    result: Option<Result<Option<RunReport>, RunError>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(ExperimentError::Executor.into()));
        // Where nobody hears it any more, the experiment is over.
        let _ = self.sender.send((self.index, Message::Ended(Box::new(result))));
    }
}

impl Runner {
    pub(super) fn new(
        lowering: Lowering,
        record: ExperimentRecord,
        journal: Journal,
        plugins: Vec<Arc<dyn Plugin>>,
        requests_from: u64,
    ) -> Self {
        let experiment = &record.experiment;
        let (sender, messages) = mpsc::unbounded_channel();
        Self {
            gates: Gates::of(experiment),
            tasks: experiment.tasks.keys().map(|name| TaskReport::new(name)).collect(),
            attached: vec![None; experiment.tasks.len()],
            ends: vec![None; experiment.tasks.len()],
            requests_from,
            running: 0,
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

    /// Hands on the output of tasks.
    #[must_use]
    pub(super) fn output(mut self, output: Option<Output>) -> Self {
        self.output = output;
        self
    }

    /// Takes over what an earlier launch left: tasks that ended well are kept, jobs that live are watched on, and
    /// everything else is done again.
    pub(super) async fn resume(&mut self, earlier: Vec<TaskReport>) {
        for (index, task) in earlier.into_iter().enumerate() {
            let lives = match (&task.state, &task.job) {
                (TaskState::Running, Some(job)) => {
                    let executor = self.lowering.executor(&self.record, &self.record.experiment.tasks[index]);
                    let state = executor.state(job).await;
                    state.is_ok_and(|state| !matches!(state, neva_executors::JobState::Failed(_) | neva_executors::JobState::Cancelled))
                }
                _ => false,
            };
            if task.state == TaskState::Succeeded {
                self.tasks[index] = task;
            } else if lives {
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

    /// Sees every task to its end.
    ///
    /// # Errors
    /// What happened could not be written down. The tasks went on all the same.
    pub(super) async fn run(mut self, mut requests: watch::Receiver<u32>) -> Result<ExperimentReport, RunError> {
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
        // What runs already asks no gate.
        for index in 0..self.tasks.len() {
            if self.attached[index].is_some() {
                self.start(index);
            }
        }
        let mut read = self.requests_from;
        loop {
            self.settle();
            self.journal.write();
            if self.running == 0 {
                break;
            }
            tokio::select! {
                Some(message) = self.messages.recv() => {
                    self.take(message);
                    // What came at the same time is written at the same time.
                    while let Ok(message) = self.messages.try_recv() {
                        self.take(message);
                    }
                }
                () = job::requested(&mut requests) => self.cancel_all(),
                () = sleep(TICK) => {
                    let (lines, next) = self.lowering.folder.cancel_requests(read);
                    read = next;
                    for line in lines {
                        match self.tasks.iter().position(|task| task.name == line) {
                            Some(task) => self.cancel(task),
                            None if line.is_empty() => self.cancel_all(),
                            None => tracing::warn!(task = line, "asked for the end of a task that is not there"),
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
        self.note(None, Change::Finished { class: report.class() });
        self.journal.close().map(|()| report)
    }

    /// Starts what may start, and ends what never will, until nothing changes.
    fn settle(&mut self) {
        let mut queue: VecDeque<usize> = (0..self.tasks.len()).collect();
        while let Some(index) = queue.pop_front() {
            if self.tasks[index].state != TaskState::Pending {
                continue;
            }
            if self.cancelled {
                self.ended(index, TaskState::Cancelled, None);
                continue;
            }
            match self.gates.gate(index, &self.tasks) {
                Gate::Shut => {}
                Gate::Never(reason) => {
                    self.ended(index, TaskState::Skipped(reason), None);
                    // Those that stand before it may wait for it.
                    queue.extend(0..index);
                }
                Gate::Open => {
                    let mates = self
                        .gates
                        .mates(index)
                        .iter()
                        .filter(|mate| self.tasks[**mate].state == TaskState::Pending);
                    let members: Vec<_> = mates.copied().chain([index]).collect();
                    let room = (self.record.experiment.max_parallel as usize).saturating_sub(self.running);
                    if members.len() > room && self.running > 0 {
                        continue;
                    }
                    // Where one does not start, the rest of its group does not either.
                    if !members.into_iter().all(|member| self.start(member)) {
                        queue.extend(0..self.tasks.len());
                    }
                }
            }
        }
    }

    /// Starts the job of a task; `false` where that failed.
    fn start(&mut self, index: usize) -> bool {
        let name = self.tasks[index].name.clone();
        let task = &self.record.experiment.tasks[index];
        let attached = self.attached[index].take();
        let made = self.lowering.job(&self.record, &name, task);
        let made = made.and_then(|made| self.lowering.folder.write_submission(&name, &made.submission).map(|()| made));
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                let state = TaskState::Failed(Box::new(error.into_failure()));
                self.ended(index, state, None);
                return false;
            }
        };
        let (end, requests) = watch::channel(0);
        let tell = |sender: mpsc::UnboundedSender<_>| move |message| drop(sender.send((index, message)));
        let (submitted, retried) = (tell(self.sender.clone()), tell(self.sender.clone()));
        let watcher = Watcher {
            retries: made.retries,
            output: self.output_of(&name),
            on_submit: Box::new(move |attempt, job| submitted(Message::Submitted(attempt, job.clone()))),
            on_retry: Box::new(move |retry| retried(Message::Retried(retry.clone()))),
        };
        let attempt = self.tasks[index].attempts.max(1);
        let sender = self.sender.clone();
        self.jobs.spawn(async move {
            let mut ending = Ending {
                index,
                sender,
                result: None,
            };
            let job = job::Job::new(&*made.executor, made.submission, watcher, requests);
            ending.result = Some(job.submitted(attached).attempt(attempt).run().await);
        });
        self.tasks[index].state = TaskState::Running;
        self.ends[index] = Some(end);
        self.running += 1;
        true
    }

    /// What takes the output of one task.
    fn output_of(&self, name: &str) -> job::Output {
        match &self.output {
            None => Box::new(|_| {}),
            Some(output) => {
                let (output, name) = (Arc::clone(output), name.to_owned());
                Box::new(move |bytes| output.lock().unwrap_or_else(PoisonError::into_inner)(&name, bytes))
            }
        }
    }

    fn take(&mut self, (index, message): (usize, Message)) {
        match message {
            Message::Submitted(attempt, job) => {
                let task = &mut self.tasks[index];
                task.attempts = attempt;
                task.job = Some(job.clone());
                task.started.get_or_insert_with(environment::unix_ms);
                self.note(Some(index), Change::Submitted { attempt, job });
            }
            Message::Retried(retry) => {
                let change = Change::Retried {
                    attempt: retry.attempt,
                    failure: Box::new(retry.failure),
                    pause_ms: u64::try_from(retry.pause.as_millis()).unwrap_or(u64::MAX),
                };
                self.note(Some(index), change);
            }
            Message::Ended(ended) => {
                self.running -= 1;
                self.ends[index] = None;
                let (state, report) = match *ended {
                    Ok(report) => (TaskState::Succeeded, report),
                    Err(RunError::Cancelled { .. }) => (TaskState::Cancelled, None),
                    Err(error) => (TaskState::Failed(Box::new(error.into_failure())), None),
                };
                self.ended(index, state, report);
            }
        }
    }

    /// A task came to its end. One that did not end well takes its group with it.
    fn ended(&mut self, index: usize, state: TaskState, report: Option<RunReport>) {
        let task = &mut self.tasks[index];
        task.state = state.clone();
        task.report.clone_from(&report);
        task.ended = Some(environment::unix_ms());
        let well = state == TaskState::Succeeded;
        self.note(
            Some(index),
            Change::Ended {
                state,
                report: report.map(Box::new),
            },
        );
        for plugin in &self.plugins {
            plugin.after_end(&self.tasks[index]);
        }
        if !well {
            for mate in self.gates.mates(index) {
                ask(&self.ends[*mate]);
            }
        }
    }

    /// Asks for the end of a task, or takes it off the list.
    fn cancel(&mut self, index: usize) {
        ask(&self.ends[index]);
        if self.tasks[index].state == TaskState::Pending {
            self.ended(index, TaskState::Cancelled, None);
        }
    }

    fn cancel_all(&mut self) {
        self.cancelled = true;
        self.ends.iter().for_each(ask);
    }

    fn note(&mut self, task: Option<usize>, change: Change) {
        self.journal.note(task.map(|index| self.tasks[index].name.clone()), change);
    }
}

/// Asks for the end of a job, where there is one.
fn ask(end: &Option<watch::Sender<u32>>) {
    if let Some(end) = end {
        end.send_modify(|count| *count += 1);
    }
}
