//! Creates a run's folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use neva_schemas::{LaunchPlan, PLAN_FILE};

use crate::error::RunError;

/// Most runs of one name that start in the same second.
const MAX_TWINS: u32 = 1000;

/// Creates the folder of `plan`. Where it exists, as when two runs start in the same second, the plan gets
/// the first free of `<folder>-1`, `<folder>-2` and so on.
///
/// # Errors
/// A folder that cannot be created.
pub fn create_run_folder(plan: &mut LaunchPlan) -> Result<(), RunError> {
    plan.run_dir = create_folder(plan.run_dir.clone())?;
    Ok(())
}

/// Creates `first`, or where it exists the first free of `<first>-1`, `<first>-2` and so on.
pub(crate) fn create_folder(first: PathBuf) -> Result<PathBuf, RunError> {
    let failed = |path: &Path, source| RunError::File {
        action: "create",
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = first.parent() {
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
    }
    let mut folder = first.clone();
    for twin in 0..MAX_TWINS {
        if twin > 0 {
            let mut name = first.clone().into_os_string();
            name.push(format!("-{twin}"));
            folder = name.into();
        }
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(&folder, source)),
        }
    }
    Err(failed(&first, io::ErrorKind::AlreadyExists.into()))
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

/// The plan as ranks read it.
pub(crate) fn plan_text(plan: &LaunchPlan) -> Result<String, RunError> {
    Ok(serde_json::to_string_pretty(plan).map_err(neva_executors::ExecutorError::from)? + "\n")
}
