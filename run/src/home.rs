//! Replaces `~` in a run's paths with the user's home.

use neva_schemas::{Run, env};

use crate::{environment, error::RunError, plan};

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
