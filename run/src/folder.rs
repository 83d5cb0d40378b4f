//! Creates a run's folder.

use std::fs;

use neva_schemas::{LaunchPlan, PLAN_FILE};

use crate::error::RunError;

/// Creates the folder of `plan` on this machine. If it exists, as when two runs start in the same second, the plan gets
/// the first free name of `<folder>-1`, `<folder>-2` and so on.
///
/// # Errors
/// A folder that cannot be created.
pub fn create_run_folder(plan: &mut LaunchPlan) -> Result<(), RunError> {
    plan.run_dir = neva_executors::create_run_folder(&plan.run_dir)?;
    Ok(())
}

/// Writes the plan into the run's folder.
///
/// # Errors
/// A file that cannot be written, or a plan with a path that is not UTF-8.
pub(crate) fn write_plan(plan: &LaunchPlan) -> Result<(), RunError> {
    let path = plan.run_dir.join(PLAN_FILE);
    fs::write(&path, plan_text(plan)?).map_err(|source| RunError::File {
        action: "write",
        path,
        source,
    })
}

/// Returns the plan as JSON, as ranks read it.
pub(crate) fn plan_text(plan: &LaunchPlan) -> Result<String, RunError> {
    Ok(serde_json::to_string_pretty(plan).map_err(neva_executors::ExecutorError::from)? + "\n")
}
