//! Lowering of a task to its submission.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use neva_executors::{Executor, Submission, Work};
use neva_schemas::{ExecutorConfig, LaunchPlan, Problem, ScriptPlan, Task, TaskSpec, env};

use super::{folder::ExperimentFolder, record::ExperimentRecord};
use crate::{error::RunError, executor, launch, plan, preflight::Preflight, pretrained};

/// A task that is ready to be submitted.
pub(super) struct Job {
    pub(super) executor: Arc<dyn Executor>,
    pub(super) submission: Submission,
    pub(super) retries: u32,
    pub(super) plan: TaskPlan,
}

/// What a task runs, before an executor renders it.
pub(super) enum TaskPlan {
    Ranks(Box<LaunchPlan>),
    Script(Box<ScriptPlan>),
}

impl TaskPlan {
    pub(super) fn work(&self) -> Work<'_> {
        match self {
            Self::Ranks(plan) => Work::Ranks(plan),
            Self::Script(script) => Work::Script(script),
        }
    }
}

/// Context of a launch that all its tasks share.
pub(super) struct Lowering {
    pub(super) folder: ExperimentFolder,
    /// Nesting depth of the experiment.
    pub(super) depth: u32,
    /// Executor that runs every task, whatever executor it names.
    pub(super) through: Option<Arc<dyn Executor>>,
    /// The `neva-run` program that scripts can call. `None` if a user's Rust program started the experiment: a script
    /// that called that program would start the experiment again.
    pub(super) command: Option<PathBuf>,
    /// Executors by their settings: tasks of one cluster share a connection and its answers.
    pub(super) executors: Mutex<Vec<(ExecutorConfig, Arc<dyn Executor>)>>,
}

impl Lowering {
    /// Returns the job of the task `name`. A job that was submitted before keeps its folder.
    pub(super) async fn job(&self, record: &ExperimentRecord, name: &str, task: &Task) -> Result<Job, RunError> {
        let submitted = self.folder.submitted_dir(name);
        let mut job = self.render(record, name, task, submitted.clone())?;
        // A folder that the user chose may exist already; one within the experiment is exclusive.
        if submitted.is_none() && !job.submission.dir.starts_with(self.dir(record, &*job.executor)) {
            let dir = job.executor.create_folder(&job.submission.dir).await?;
            job = self.render(record, name, task, Some(dir))?;
        }
        Ok(job)
    }

    /// Like [`job`](Self::job), but without side effects; reads the clock.
    pub(super) fn render(&self, record: &ExperimentRecord, name: &str, task: &Task, dir: Option<PathBuf>) -> Result<Job, RunError> {
        let config = task.executor.as_ref().unwrap_or(&record.executor);
        let executor = self.executor(record, task)?;
        let experiment_dir = self.dir(record, &*executor);
        let own_dir = experiment_dir.join("tasks").join(name);
        let task_env = |layers| self.env(name, &experiment_dir, &*executor, layers);
        let plan = match &task.task {
            TaskSpec::Script(script) => TaskPlan::Script(Box::new(ScriptPlan {
                name: name.to_owned(),
                run_dir: dir.unwrap_or(own_dir),
                working_directory: record.working_directory.clone(),
                text: record.script_text(script),
                entrypoint: script.entrypoint.split_whitespace().map(str::to_owned).collect(),
                args: script.args.clone(),
                env: task_env([config.env_vars(), &script.env]),
            })),
            TaskSpec::Finetune(run) => {
                let mut plan = launch::lower_for(run, Some(record.working_directory.clone()), &*executor)?;
                plan.env = task_env([&plan.env, config.env_vars()]);
                // Jobs of one experiment are told apart in a queue.
                if record.experiment.tasks.len() > 1 {
                    name.clone_into(&mut plan.name);
                }
                let dir = match dir {
                    Some(dir) => dir,
                    None if run.dir.is_none() && run.finetune.log.log_dir.is_none() => own_dir,
                    None => plan.run_dir.with_file_name(format!("{}_{name}", self.folder.id)),
                };
                plan::move_to(&mut plan, dir);
                TaskPlan::Ranks(Box::new(plan))
            }
            work => return Err(RunError::Argument(format!("this version runs no task of the kind {}", work.kind()))),
        };
        let submission = match &plan {
            TaskPlan::Ranks(plan) => executor.render(plan)?,
            TaskPlan::Script(script) => executor.render_script(script)?,
        };
        Ok(Job {
            plan,
            executor,
            submission,
            retries: config.launcher_retries(),
        })
    }

    /// Downloads the models of a fine-tune whose ranks start on this machine.
    ///
    /// # Errors
    /// A model cannot be downloaded.
    pub(super) fn fetch(&self, record: &ExperimentRecord, task: &Task) -> Result<(), RunError> {
        let TaskSpec::Finetune(run) = &task.task else { return Ok(()) };
        if self.executor(record, task)?.shares_files() {
            let config = task.executor.as_ref().unwrap_or(&record.executor);
            pretrained::fetch(run, config.env_vars(), &mut |text| tracing::info!("{text}"))?;
        }
        Ok(())
    }

    /// Checks the files of a fine-tune that starts for the first time, if its ranks start on this machine.
    ///
    /// # Errors
    /// A file is missing or does not match the run.
    pub(super) fn preflight(&self, preflight: &mut Preflight, record: &ExperimentRecord, name: &str, task: &Task) -> Result<(), RunError> {
        let TaskSpec::Finetune(run) = &task.task else { return Ok(()) };
        let is_here = self.executor(record, task)?.shares_files();
        if record.no_preflight || !is_here || self.folder.submitted_dir(name).is_some() {
            return Ok(());
        }
        let config = task.executor.as_ref().unwrap_or(&record.executor);
        let problems = preflight.problems(run, config.env_vars());
        let located = problems.into_iter().map(|problem| Problem {
            path: format!("tasks.{name}.task.{}", problem.path),
            ..problem
        });
        launch::reject_errors(located.collect())
    }

    /// Returns the environment of a task. The second layer overrides the first; the `NEVA_*` variables override both.
    fn env(&self, name: &str, dir: &Path, executor: &dyn Executor, layers: [&BTreeMap<String, String>; 2]) -> BTreeMap<String, String> {
        let mut env = layers[0].clone();
        env.extend(layers[1].clone());
        let own = [
            (env::NEVA_EXPERIMENT_DIR, dir.display().to_string()),
            (env::NEVA_EXPERIMENT_DEPTH, self.depth.to_string()),
            (env::NEVA_TASK, name.to_owned()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        if let Some(command) = self.command.as_ref().filter(|_| executor.shares_files()) {
            env.insert(env::NEVA_RUN.to_owned(), command.display().to_string());
        }
        env
    }

    /// Returns the executor of a task.
    ///
    /// # Errors
    /// The way to the executor's machine cannot be used.
    pub(super) fn executor(&self, record: &ExperimentRecord, task: &Task) -> Result<Arc<dyn Executor>, RunError> {
        match &self.through {
            Some(executor) => Ok(Arc::clone(executor)),
            None => {
                let config = task.executor.as_ref().unwrap_or(&record.executor);
                let is_sweep = record.experiment.tasks.len() > 1;
                let config = &config.without_task_sets(is_sweep, !record.experiment.groups.is_empty());
                // It is valid after a panic of another thread: the only change is an insertion.
                let mut known = self.executors.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, executor)) = known.iter().find(|(known, _)| known == config) {
                    return Ok(Arc::clone(executor));
                }
                let executor = executor::executor(config)?;
                known.push((config.clone(), Arc::clone(&executor)));
                Ok(executor)
            }
        }
    }

    /// Returns the experiment's folder as the tasks of `executor` see it: this machine's, or one of the same name in the
    /// executor's folder of runs.
    pub(super) fn dir(&self, record: &ExperimentRecord, executor: &dyn Executor) -> PathBuf {
        match executor.runs_folder() {
            Some(runs) => runs.join("experiments").join(&record.experiment.name).join(&self.folder.id),
            None => self.folder.dir.clone(),
        }
    }
}
