//! Chooses how a source is imported, by what it holds.

use super::{
    ImportError, ImportOptions, check, gguf, original,
    plan::Plan,
    sources::{Found, Sources},
};
use crate::hub::CONFIG;

/// Plans the import of a source.
///
/// # Errors
/// The source is not complete, or not supported.
pub(super) fn plan(found: &Found, options: &ImportOptions, sources: &mut Sources<'_, '_>) -> Result<Plan, ImportError> {
    if let Some(file) = &found.file
        && let Some(plan) = gguf::plan(file)?
    {
        return unused(options, found).map(|()| plan);
    }
    let config = check::config(&found.folder)?;
    match neva_layout::families::OriginalLlava::of(&config) {
        None => {
            unused(options, found)?;
            check::plan(found, &config)
        }
        Some(read) => {
            let path = found.folder.join(CONFIG);
            let read = read.map_err(|error| ImportError::content(&path, error.to_string()))?;
            original::plan(found, &read, options, sources)
        }
    }
}

/// Refuses options that only checkpoints of the original LLaVA repository need.
fn unused(options: &ImportOptions, found: &Found) -> Result<(), ImportError> {
    let given = [
        ("--base", options.base.is_some()),
        ("--vision-tower", options.vision_tower.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(ImportError::Content {
            path: found.path.clone(),
            problems: vec![format!(
                "it is no checkpoint of the original LLaVA repository, which alone needs {option}"
            )],
            help: Some(format!("remove {option}")),
        }),
    }
}
