//! Replaces `~` in a run's paths with the user's home.

use std::path::Path;

use neva_executors::Executor;
use neva_schemas::{Run, env};

use crate::{environment, error::RunError, plan};

/// Returns the run as the nodes of `executor` see it: with `~` replaced, and in the executor's folder if it names none.
///
/// # Errors
/// A path begins with `~`, and the home is not known.
pub(crate) fn for_executor(run: &Run, executor: &dyn Executor) -> Result<Run, RunError> {
    let mut run = if executor.shares_files() {
        with_home(run)?
    } else {
        let mut run = run.clone();
        plan::expand_home(&mut run, None).map_err(|path| {
            let text = format!(
                "`{}` begins with `~`, but the run starts on another machine: write the whole path",
                path.display()
            );
            RunError::Argument(text)
        })?;
        run
    };
    if run.dir.is_none() && run.finetune.log.log_dir.is_none() {
        run.dir = executor.runs_folder().map(Path::to_owned);
    }
    Ok(run)
}

/// Returns the run with `~` in its paths replaced by the user's home.
pub(crate) fn with_home(run: &Run) -> Result<Run, RunError> {
    let mut run = run.clone();
    let home = environment::path(env::HOME);
    plan::expand_home(&mut run, home.as_deref()).map_err(|path| {
        let text = format!("`{}` begins with `~`, but HOME is not set: write the whole path", path.display());
        RunError::Argument(text)
    })?;
    Ok(run)
}
