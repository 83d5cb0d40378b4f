//! Experiments in Rust.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use indexmap::IndexMap;
use neva_executors::{Executor, Submission};
use neva_schemas::{self as schemas, Dependency, Task, When};

use super::{
    detach, event::Event, folder::ExperimentFolder, journal::Listener, launcher::Launcher, plugin::Plugin, prepare::prepare,
    record::ExperimentRecord, report::ExperimentReport, runner::Output, store::Store,
};
use crate::{error::RunError, launch};

/// Tasks, and what must have ended before each.
///
/// ```no_run
/// use neva_run::{Experiment, ExperimentOptions};
/// use neva_schemas::{Script, When};
///
/// # fn example() -> Result<(), neva_run::RunError> {
/// let mut finetune = neva_recipes::neva_tiny::finetune_recipe(neva_recipes::neva_tiny::default_args());
/// finetune.trainer.max_steps = Some(5);
/// let report = Experiment::new("tiny")
///     .add("prepare", Script::inline("mkdir -p data"))
///     .add("train", finetune)
///     .add("tell", Script::inline("echo it failed"))
///     .depends_on("train", "prepare")
///     .depends_on_when("tell", When::AfterNotOk, "train")
///     .run(ExperimentOptions::default())?;
/// println!("{}: {}", report.tasks[1].name, report.tasks[1].state);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Experiment {
    spec: schemas::Experiment,
    plugins: Vec<Arc<dyn Plugin>>,
    /// Names that an edge was added to before the task.
    strangers: Vec<String>,
}

/// Where and how an experiment is started.
#[derive(Default)]
pub struct ExperimentOptions {
    store: Option<Store>,
    executor: schemas::Executor,
    through: Option<Arc<dyn Executor>>,
    working_directory: Option<PathBuf>,
    listener: Option<Listener>,
    output: Option<Output>,
    command: Option<PathBuf>,
}

impl Experiment {
    /// An experiment without tasks. Its name is a part of its id and names a folder.
    pub fn new(name: impl Into<String>) -> Self {
        schemas::Experiment {
            name: name.into(),
            ..Default::default()
        }
        .into()
    }

    /// Adds a task: a [`Script`](schemas::Script), a [`Finetune`](schemas::Finetune), a resolved
    /// [`Run`](schemas::Run), or a [`Task`] with an executor of its own. A name that is taken gets a number:
    /// `train`, `train_2`.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, task: impl Into<Task>) -> Self {
        let first = name.into();
        let mut name = first.clone();
        let mut number = 1;
        while self.spec.tasks.contains_key(&name) {
            number += 1;
            name = format!("{first}_{number}");
        }
        self.spec.tasks.insert(name, task.into());
        self
    }

    /// Adds tasks that start together as a group: where one fails the others are ended.
    #[must_use]
    pub fn add_group<T: Into<Task>>(mut self, group: impl Into<String>, tasks: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut members = Vec::new();
        for (name, task) in tasks {
            self = self.add(name, task);
            members.extend(self.spec.tasks.keys().last().cloned());
        }
        self.spec.groups.insert(group.into(), members);
        self
    }

    /// Has `task` wait for a good end of `parent`, a task or a group.
    #[must_use]
    pub fn depends_on(self, task: &str, parent: &str) -> Self {
        self.depends_on_when(task, When::AfterOk, parent)
    }

    /// Has `task`, which was added before, wait for `parent` to have ended as `when` says.
    #[must_use]
    pub fn depends_on_when(mut self, task: &str, when: When, parent: &str) -> Self {
        match self.spec.tasks.get_mut(task) {
            Some(task) => task.depends_on.push(Dependency::when(when, parent)),
            None => self.strangers.push(task.to_owned()),
        }
        self
    }

    /// One task at a time, in the order in which they were added, until one fails.
    #[must_use]
    pub fn sequential(mut self) -> Self {
        self.spec.sequential = true;
        self
    }

    /// At most `tasks` at the same time.
    #[must_use]
    pub fn max_parallel(mut self, tasks: u32) -> Self {
        self.spec.max_parallel = tasks;
        self
    }

    /// Adds a plugin; they are called in the order in which they were added.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Plugin + 'static) -> Self {
        self.plugins.push(Arc::new(plugin));
        self
    }

    /// Runs the experiment to its end. Blocks; call it outside of an asynchronous runtime. While it runs, SIGINT,
    /// SIGTERM, SIGHUP and SIGUSR1 end its tasks.
    ///
    /// # Errors
    /// An experiment that is not valid or cannot be started; and one of which a task failed:
    /// [`ExperimentError::Failed`](super::ExperimentError::Failed) holds the report, and [`RunError::class`] the
    /// class of the first failure.
    pub fn run(self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let (mut record, launcher) = self.checked(options)?;
        let (folder, lock) = launcher.create(&mut record)?;
        launcher.run(folder, lock)
    }

    /// What would be submitted for each task, by name. Nothing is written.
    ///
    /// # Errors
    /// An experiment that is not valid or cannot be started.
    pub fn plan(self, options: ExperimentOptions) -> Result<IndexMap<String, Submission>, RunError> {
        // The rank program need not be built yet.
        let (record, launcher) = self.recorded(options)?;
        let lowering = launcher.planned(&record)?;
        let tasks = record.experiment.tasks.iter();
        let planned = tasks.map(|(name, task)| Ok((name.clone(), lowering.render(&record, name, task, None)?.submission)));
        planned.collect()
    }

    /// Starts the experiment and leaves it to a launcher of its own.
    pub(crate) fn detach(self, options: ExperimentOptions) -> Result<ExperimentFolder, RunError> {
        let (mut record, launcher) = self.checked(options)?;
        let (folder, lock) = launcher.create(&mut record)?;
        drop(lock);
        detach::start(&folder)?;
        Ok(folder)
    }

    fn checked(self, options: ExperimentOptions) -> Result<(ExperimentRecord, Launcher), RunError> {
        let (record, launcher) = self.recorded(options)?;
        launcher.check(&record)?;
        Ok((record, launcher))
    }

    fn recorded(self, options: ExperimentOptions) -> Result<(ExperimentRecord, Launcher), RunError> {
        if let Some(task) = self.strangers.first() {
            let message = format!("`{task}` was to wait for another task, but there is no such task: add it first");
            return Err(RunError::Argument(message));
        }
        options.launcher(self.spec, self.plugins)
    }
}

impl From<schemas::Experiment> for Experiment {
    fn from(spec: schemas::Experiment) -> Self {
        Self {
            spec,
            plugins: Vec::new(),
            strangers: Vec::new(),
        }
    }
}

impl ExperimentOptions {
    /// Keeps the experiment in `store`, and not in the user's.
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// Where tasks run that name no executor.
    #[must_use]
    pub fn executor(mut self, executor: schemas::Executor) -> Self {
        self.executor = executor;
        self
    }

    /// Runs every task through `executor`, whatever executor it names. Environment and attempts are still those of
    /// the named one.
    #[must_use]
    pub fn through(mut self, executor: Arc<dyn Executor>) -> Self {
        self.through = Some(executor);
        self
    }

    /// Takes relative paths from `folder` (absolute), in which scripts start, and not from the working directory.
    #[must_use]
    pub fn working_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Tells `listener` of each change, after it was written down.
    #[must_use]
    pub fn on_event(mut self, listener: impl FnMut(&Event) + Send + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Hands the output of tasks to `sink` as it comes: the task's name, and bytes; of a fine-tune those of its rank 0.
    /// Without it, output is in the logs only.
    #[must_use]
    pub fn on_output(mut self, sink: impl FnMut(&str, &[u8]) + Send + 'static) -> Self {
        self.output = Some(Arc::new(Mutex::new(sink)));
        self
    }

    /// Tells scripts of `program`, the command line's, as `NEVA_RUN`.
    #[must_use]
    pub(crate) fn command(mut self, program: Option<PathBuf>) -> Self {
        self.command = program;
        self
    }

    pub(super) fn bare_launcher(self) -> Result<Launcher, RunError> {
        Ok(Launcher {
            store: self.store.map_or_else(Store::of_user, Ok)?,
            through: self.through,
            listener: self.listener.unwrap_or_else(|| Box::new(|_| {})),
            output: self.output,
            plugins: Vec::new(),
            command: self.command,
        })
    }

    fn launcher(mut self, spec: schemas::Experiment, plugins: Vec<Arc<dyn Plugin>>) -> Result<(ExperimentRecord, Launcher), RunError> {
        let working_directory = self.working_directory.take().map_or_else(launch::here, Ok)?;
        let record = prepare(spec, std::mem::take(&mut self.executor), working_directory, &plugins)?;
        let launcher = Launcher {
            plugins,
            ..self.bare_launcher()?
        };
        Ok((record, launcher))
    }
}
