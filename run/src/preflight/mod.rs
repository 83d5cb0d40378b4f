//! Checks a run's files on the launching machine before it starts, so that a wrong path costs seconds and not the wait in
//! a cluster's queue. Each problem carries the setting that names the file.
//!
//! The work is bounded: configurations, a tokenizer, the first records of data files. Preflight rejects nothing that the
//! ranks would accept. So the output of another task is checked when its consumer starts, and files on other machines
//! are left to the ranks, which check everything before they load weights.

mod data;
mod json_file;
mod probe;
mod samples;
mod weights;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use neva_layout::ModelCache;
use neva_schemas::{ExecutorConfig, Finetune, Problem, Run, Severity};

pub(crate) use self::probe::{RunData, open_data};
pub(crate) use self::samples::{open_samples, open_splits};
use crate::{
    config::Problems,
    environment, home, plan,
    resolve::{Resolved, check},
};

/// Checks the files of runs, each set of files once: the points of a sweep share most of them.
#[derive(Debug)]
pub(crate) struct Preflight {
    working_directory: PathBuf,
    known: BTreeMap<String, Vec<Problem>>,
}

impl Preflight {
    /// Creates checks that resolve relative paths against `working_directory` (absolute).
    pub(crate) fn new(working_directory: PathBuf) -> Self {
        Self {
            working_directory,
            known: BTreeMap::new(),
        }
    }

    /// Returns the problems of the files of `run`, whose ranks have `variables` in addition to the environment of this
    /// process.
    pub(crate) fn problems(&mut self, run: &Run, variables: &BTreeMap<String, String>) -> Vec<Problem> {
        // An unknown home is reported when the run is lowered.
        let mut run = home::with_home(run).unwrap_or_else(|_| run.clone());
        plan::absolute_paths(&mut run, &self.working_directory);
        let finetune = &run.finetune;
        let read = (&finetune.model, &finetune.data, &finetune.resume, &finetune.peft, variables);
        // A path that JSON cannot hold leaves no key, so such files are checked each time.
        let key = serde_json::to_string(&read).ok();
        if let Some(known) = key.as_ref().and_then(|key| self.known.get(key)) {
            return known.clone();
        }
        let cache = ModelCache::locate(|name| variables.get(name).cloned().or_else(|| environment::variable(name)));
        let problems = problems(finetune, &cache);
        if let Some(key) = key {
            self.known.insert(key, problems.clone());
        }
        problems
    }

    /// Checks a run that was read from a file. Errors carry the origins of the settings; warnings are returned.
    ///
    /// # Errors
    /// A file is missing or does not fit the run.
    pub(crate) fn check(&mut self, resolved: &Resolved, executor: &ExecutorConfig) -> Result<Vec<Problem>, Problems> {
        let (errors, warnings) = self
            .problems(&resolved.run, executor.env_vars())
            .into_iter()
            .partition(|problem| problem.severity == Severity::Error);
        check(&resolved.tree, errors)?;
        Ok(warnings)
    }
}

/// Writes the warnings among `problems` to the log.
pub(crate) fn log_warnings(problems: &[Problem]) {
    for warning in problems.iter().filter(|problem| problem.severity == Severity::Warning) {
        tracing::warn!("{warning}");
    }
}

fn problems(finetune: &Finetune, cache: &ModelCache) -> Vec<Problem> {
    let mut problems = Vec::new();
    let artifacts = weights::problems(finetune, cache, &mut problems);
    data::problems(finetune, artifacts, cache, &mut problems);
    problems
}

/// The folder of a run's tokenizer if its data names none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Artifacts {
    /// No folder.
    None,
    /// This one.
    Folder(PathBuf),
    /// Only the ranks find the folder: it is that of a checkpoint's own base, or is missing itself.
    Unknown,
}

/// Returns the problem at `setting` of a path that is not a folder.
fn no_folder(setting: &str, path: &Path) -> Problem {
    let message = if path.exists() {
        format!("{} is not a folder", path.display())
    } else {
        format!("there is no folder {}", path.display())
    };
    Problem::error(setting, message)
}
