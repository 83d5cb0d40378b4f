//! Builder of experiments in Rust.

use std::sync::Arc;

use indexmap::IndexMap;
use neva_executors::Submission;
use neva_schemas::{self as schemas, Dependency, Task, When};

use super::{
    detach,
    folder::ExperimentFolder,
    launcher::Launcher,
    options::ExperimentOptions,
    plugin::Plugin,
    record::ExperimentRecord,
    report::ExperimentReport,
    task_sets::{Members, TaskSets},
};
use crate::error::RunError;

/// An experiment: tasks and their dependencies.
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
///     .add("notify", Script::inline("echo it failed"))
///     .depends_on("train", "prepare")
///     .depends_on_when("notify", When::AfterNotOk, "train")
///     .run(ExperimentOptions::default())?;
/// println!("{}: {}", report.tasks[1].name, report.tasks[1].state);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Experiment {
    spec: schemas::ExperimentConfig,
    plugins: Vec<Arc<dyn Plugin>>,
    /// Names of tasks that got a dependency before they were added.
    unknown_tasks: Vec<String>,
}

impl Experiment {
    /// Creates an experiment without tasks. The name is part of its id and names a folder.
    pub fn new(name: impl Into<String>) -> Self {
        schemas::ExperimentConfig {
            name: name.into(),
            ..Default::default()
        }
        .into()
    }

    /// Adds a task: a [`Script`](schemas::Script), a [`Finetune`](schemas::Finetune), a resolved
    /// [`Run`](schemas::Run), or a [`Task`] with its own executor. A name that is in use gets a number: `train`,
    /// `train_2`.
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

    /// Adds tasks that start together as a group: if one fails, the others are stopped.
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

    /// Makes `task` wait until `parent`, a task or a group, has succeeded.
    #[must_use]
    pub fn depends_on(self, task: &str, parent: &str) -> Self {
        self.depends_on_when(task, When::AfterOk, parent)
    }

    /// Makes `task`, which was added before, wait until `parent` has ended as `when` requires.
    #[must_use]
    pub fn depends_on_when(mut self, task: &str, when: When, parent: &str) -> Self {
        match self.spec.tasks.get_mut(task) {
            Some(task) => task.depends_on.push(Dependency::when(when, parent)),
            None => self.unknown_tasks.push(task.to_owned()),
        }
        self
    }

    /// Runs one task at a time, in the order in which they were added, until one fails.
    #[must_use]
    pub fn sequential(mut self) -> Self {
        self.spec.sequential = true;
        self
    }

    /// Limits the tasks that run at the same time. The default follows this machine's cores and GPUs.
    #[must_use]
    pub fn max_parallel(mut self, tasks: u32) -> Self {
        self.spec.max_parallel = Some(tasks);
        self
    }

    /// Adds a plugin. Plugins are called in the order in which they were added.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Plugin + 'static) -> Self {
        self.plugins.push(Arc::new(plugin));
        self
    }

    /// Runs the experiment to its end. Blocks; call it outside of an asynchronous runtime. While it runs, SIGINT,
    /// SIGTERM, SIGHUP and SIGUSR1 stop its tasks.
    ///
    /// # Errors
    /// The experiment is not valid or cannot be started, or a task failed:
    /// [`ExperimentError::Failed`](super::ExperimentError::Failed) holds the report, and [`RunError::exit_code`] is the
    /// exit code of the first failure.
    pub fn run(self, options: ExperimentOptions) -> Result<ExperimentReport, RunError> {
        let (mut record, launcher) = self.checked(options)?;
        let (folder, lock) = launcher.create(&mut record)?;
        launcher.run(folder, lock)
    }

    /// Returns what would be submitted for each task, by name; tasks that become one job are one entry. Writes nothing.
    ///
    /// # Errors
    /// The experiment is not valid or cannot be started.
    pub fn plan(self, options: ExperimentOptions) -> Result<IndexMap<String, Submission>, RunError> {
        // Works without a rank program.
        let (record, launcher) = self.recorded(options)?;
        let lowering = launcher.planned(&record)?;
        let tasks = record.experiment.tasks.iter();
        let jobs: Vec<_> = tasks
            .map(|(name, task)| lowering.render(&record, name, task, None))
            .collect::<Result<_, _>>()?;
        let sets = TaskSets::checked(&record.experiment, &record.executor)?;
        let mut planned = IndexMap::new();
        for (index, name) in record.experiment.tasks.keys().enumerate() {
            match sets.of(index).filter(|_| jobs[index].executor.joins_tasks()) {
                None => drop(planned.insert(name.clone(), jobs[index].submission.clone())),
                Some(set) if set.tasks.first() == Some(&index) => {
                    let own: Vec<_> = set.tasks.iter().map(|task| &jobs[*task]).collect();
                    planned.insert(set_title(&record, set), lowering.render_set(&record, set, &own)?);
                }
                Some(_) => {}
            }
        }
        Ok(planned)
    }

    /// Starts the experiment in a detached launcher.
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
        if let Some(task) = self.unknown_tasks.first() {
            let message = format!("`{task}` depends on another task, but there is no task `{task}`: add it first");
            return Err(RunError::Argument(message));
        }
        options.launcher(self.spec, self.plugins)
    }
}

/// Returns the names of tasks that become one job: `a, b`, or `a ... h (8 tasks)`.
fn set_title(record: &ExperimentRecord, set: &Members) -> String {
    const SHOWN: usize = 3;
    let tasks = set.tasks.iter().filter_map(|task| record.experiment.tasks.get_index(*task));
    let names: Vec<&str> = tasks.map(|(name, _)| name.as_str()).collect();
    match names.as_slice() {
        [first, .., last] if names.len() > SHOWN => format!("{first} ... {last} ({} tasks)", names.len()),
        names => names.join(", "),
    }
}

impl From<schemas::ExperimentConfig> for Experiment {
    fn from(spec: schemas::ExperimentConfig) -> Self {
        Self {
            spec,
            plugins: Vec::new(),
            unknown_tasks: Vec::new(),
        }
    }
}
