//! Checks of environment variables in configs.

use crate::contract::env;
use crate::secret::is_secret_name;
use crate::validate::Problem;

/// Appends the problems of a variable in the map at path `map`.
pub(crate) fn validate_variable(map: &str, name: &str, value: &str, problems: &mut Vec<Problem>) {
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let path = format!("{map}.\"{quoted}\"");
    if let Some(message) = variable_name_error(name) {
        problems.push(Problem::error(path, message));
    } else if SET_BY_LAUNCHER.contains(&name) {
        problems.push(Problem::error(path, format!("{name} is set by the launcher")).help("remove it"));
    } else if is_secret_name(name) {
        let message = format!("{name} looks like a secret, but this map is written to disk");
        let help = format!("remove it, `export {name}=...` where you start the job, and name it in `env_from: [{name}]`");
        problems.push(Problem::error(path, message).help(help).secret());
    } else if value.contains('\0') {
        problems.push(Problem::error(path, format!("the value of {name} holds a NUL character")));
    }
}

/// Returns an error if `name` is not a valid variable name, one that a shell can set.
pub(crate) fn variable_name_error(name: &str) -> Option<String> {
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    (name.is_empty() || !good).then(|| format!("{name:?} is not a valid name of an environment variable: use letters, digits and `_`"))
}

/// Variables that a launcher sets for each rank. A rank that inherits those of another launcher takes them for its own.
pub const SET_BY_LAUNCHER: &[&str] = &[
    env::RANK,
    env::WORLD_SIZE,
    env::LOCAL_RANK,
    env::LOCAL_WORLD_SIZE,
    env::MASTER_ADDR,
    env::MASTER_PORT,
    env::TORCHELASTIC_USE_AGENT_STORE,
    env::TORCHELASTIC_RESTART_COUNT,
    env::NEVA_DIE_WITH_PARENT,
    env::NEVA_JOB,
];
