//! From a task to what is submitted for it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_executors::{Executor, Submission};
use neva_schemas::{ScriptPlan, Task, Work, env};

use super::{folder::ExperimentFolder, record::ExperimentRecord};
use crate::{environment, error::RunError, executor, folder, plan};

/// A task that is ready to be submitted.
pub(super) struct Job {
    pub(super) executor: Arc<dyn Executor>,
    pub(super) submission: Submission,
    pub(super) retries: u32,
}

/// What every task of a launch has in common.
pub(super) struct Lowering {
    pub(super) folder: ExperimentFolder,
    /// How many experiments the tasks are in, one within the other.
    pub(super) depth: u32,
    /// Runs every task, whatever executor it names.
    pub(super) through: Option<Arc<dyn Executor>>,
    /// The command line's program, for scripts to call. A program of the user's that starts an experiment from Rust
    /// is none: a script that called it would start the experiment again.
    pub(super) command: Option<PathBuf>,
}

impl Lowering {
    /// The job of the task `name`, in the folder of the one before where it was submitted before.
    pub(super) fn job(&self, record: &ExperimentRecord, name: &str, task: &Task) -> Result<Job, RunError> {
        let submitted = self.folder.submitted_dir(name);
        let mut job = self.render(record, name, task, submitted.clone())?;
        // A folder of the user's may be there already; one in the experiment is nobody else's.
        if submitted.is_none() && !job.submission.dir.starts_with(&self.folder.dir) {
            let dir = folder::create_folder(job.submission.dir)?;
            job = self.render(record, name, task, Some(dir))?;
        }
        Ok(job)
    }

    /// As [`job`](Self::job), and pure but for the clock.
    pub(super) fn render(&self, record: &ExperimentRecord, name: &str, task: &Task, dir: Option<PathBuf>) -> Result<Job, RunError> {
        let config = task.executor.as_ref().unwrap_or(&record.executor);
        let executor = self.executor(record, task);
        let submission = match &task.task {
            Work::Script(script) => executor.render_script(&ScriptPlan {
                name: name.to_owned(),
                run_dir: dir.unwrap_or_else(|| self.folder.task(name)),
                working_directory: record.working_directory.clone(),
                text: record.script_text(script),
                entrypoint: script.entrypoint.split_whitespace().map(str::to_owned).collect(),
                args: script.args.clone(),
                env: self.env(name, [config.env_vars(), &script.env]),
            })?,
            Work::Finetune(run) => {
                let mut plan = plan::lower(run, &record.working_directory, environment::now());
                plan.env = self.env(name, [&plan.env, config.env_vars()]);
                match dir {
                    Some(dir) => plan.run_dir = dir,
                    None if run.dir.is_none() && run.finetune.log.log_dir.is_none() => plan.run_dir = self.folder.task(name),
                    None => plan.run_dir.set_file_name(format!("{}_{name}", self.folder.id)),
                }
                executor.render(&plan)?
            }
            work => return Err(RunError::Argument(format!("this version runs no task of the kind {}", work.kind()))),
        };
        Ok(Job {
            executor,
            submission,
            retries: config.retries(),
        })
    }

    /// The environment of a task: the last of `layers` goes before the first, and what tells a task where it is
    /// before all.
    fn env(&self, name: &str, layers: [&BTreeMap<String, String>; 2]) -> BTreeMap<String, String> {
        let mut env = layers[0].clone();
        env.extend(layers[1].clone());
        let own = [
            (env::NEVA_EXPERIMENT_DIR, self.folder.dir.display().to_string()),
            (env::NEVA_EXPERIMENT_DEPTH, self.depth.to_string()),
            (env::NEVA_TASK, name.to_owned()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        if let Some(command) = &self.command {
            env.insert(env::NEVA_RUN.to_owned(), command.display().to_string());
        }
        env
    }

    /// The executor of a task.
    pub(super) fn executor(&self, record: &ExperimentRecord, task: &Task) -> Arc<dyn Executor> {
        match &self.through {
            Some(executor) => Arc::clone(executor),
            None => executor::executor(task.executor.as_ref().unwrap_or(&record.executor)),
        }
    }
}

/// `path` from `folder`.
pub(super) fn absolute(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}
