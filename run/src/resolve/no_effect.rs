//! Overrides of arguments without effect: the file sets the values that the recipe derives from them.

use super::{GRAPH, Resolved, problem};
use crate::config::{ConfigError, FORWARDED_ARGUMENTS, Override, ProblemKind, Segment};

/// Returns an error if `over` changes an argument but not the graph of the run.
pub(super) fn error(over: &Override, with: &Resolved, without: &Resolved) -> Option<ConfigError> {
    let path = over.path();
    let [Segment::Key(argument)] = path.0.as_slice() else {
        return None;
    };
    if with.run == without.run || with.run.finetune != without.run.finetune {
        return None;
    }
    let forwarded = FORWARDED_ARGUMENTS.iter().find(|(name, _)| name == argument);
    let help = match forwarded {
        Some((_, [section, field])) => format!("override the graph itself: `--set {GRAPH}.{section}.{field}=...`"),
        None => format!("override the graph itself, `--set {GRAPH}...`, or remove its values from the file"),
    };
    let message = format!("`{argument}` has no effect here: the file sets every value that the recipe derives from it");
    Some(problem(
        path,
        over.value_origin(),
        ProblemKind::Invalid { message, help: Some(help) },
    ))
}
