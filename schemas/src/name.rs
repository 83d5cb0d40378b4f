//! Names of runs, experiments, tasks and groups, which are also folder names.

/// Maximum length of the name of a run or an experiment, in bytes. Names of checkpoints and job folders add a date,
/// steps and metrics to it, and a file system allows 255 bytes.
pub const MAX_NAME_LENGTH: usize = 90;

/// Maximum length of the name of a task or a group, in bytes.
pub(crate) const MAX_TASK_NAME_LENGTH: usize = 128;

/// Returns an error message if `name` is not a valid name.
pub(crate) fn name_error(name: &str, max_length: usize) -> Option<String> {
    let odd = |c: char| !(c.is_alphanumeric() || "-_.=+@,".contains(c));
    if name.is_empty() {
        Some("the name is empty".to_owned())
    } else if name.len() > max_length {
        Some(format!("the name is longer than {max_length} bytes"))
    } else if name.starts_with(['.', '-']) {
        Some(format!(
            "the name {name:?} is used as a folder name and must not begin with `.` or `-`"
        ))
    } else {
        let odd = name.chars().find(|c| odd(*c))?;
        Some(format!(
            "the name {name:?} is used as a folder name and must not contain {odd:?}: use letters, digits and - _ . = + @ ,"
        ))
    }
}
