//! Checks of paths on the machines of the ranks, which start in a folder of their own.

use crate::validate::Problem;

/// Why a relative path is refused.
const REASON: &str = "ranks start in another folder, where a relative path names nothing";

/// Returns the problem of a folder `value` that is not absolute. `field` is the path of the setting, and `place` has the folder.
pub(crate) fn folder_problem(field: String, value: &str, place: &str) -> Option<Problem> {
    let name = field.rsplit('.').next().unwrap_or_default();
    (!value.starts_with('/')).then(|| {
        Problem::error(field.clone(), format!("`{name}` is {value:?}: {REASON}")).help(format!(
            "write the absolute path {place}, as `/opt/{name}`; `~` and variables are not replaced"
        ))
    })
}

/// Returns the problem of a program `value` that is neither absolute nor a name in PATH.
pub(crate) fn program_problem(field: String, value: &str, place: &str) -> Option<Problem> {
    let name = field.rsplit('.').next().unwrap_or_default();
    let file = value.rsplit('/').next().unwrap_or_default();
    (value.contains('/') && !value.starts_with('/')).then(|| {
        Problem::error(field.clone(), format!("`{name}` is {value:?}: {REASON}")).help(format!(
            "write the absolute path {place}, as `/opt/neva/bin/{file}`, or a name in PATH there; `~` and variables are not replaced"
        ))
    })
}
