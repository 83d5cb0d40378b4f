//! From the description of a place to run to the place itself.

use std::{sync::Arc, time::Duration};

use neva_executors::{Executor, LocalExecutor};
use neva_schemas::{self as schemas, Problem};

use crate::{environment, program};

/// The executor that `config` describes. A rank program that is not found is called by its name, so that a job is
/// refused when it starts and not when it is printed.
pub fn executor(config: &schemas::Executor) -> Arc<dyn Executor> {
    match config {
        schemas::Executor::Local(local) => Arc::new(LocalExecutor {
            program: program::find_here().unwrap_or_else(|_| program::NAME.into()),
            settle: Duration::from_secs(local.settle_s),
            grace: Duration::from_secs(local.grace_s),
        }),
    }
}

/// A warning for each variable that `config` takes from this process's environment and that is not set there.
/// `path` is where `config` stands.
pub(crate) fn unset_variables(config: &schemas::Executor, path: &str) -> Vec<Problem> {
    let names = config.env_from().iter().enumerate();
    names
        .filter(|(_, name)| !environment::is_set(name))
        .map(|(index, name)| {
            Problem::warning(
                format!("{path}.env_from[{index}]"),
                format!("{name} is not set here, so the job will not have it"),
            )
            .help(format!("export {name}=..."))
        })
        .collect()
}
