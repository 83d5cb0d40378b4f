//! Errors of references to missing values.

use super::template::Name;
use crate::config::{
    error::{ConfigError, ProblemKind},
    node::{Node, Value},
    path::{Path, Segment},
};

/// Returns the error of a path without a value. An upper-case name may be meant as an environment variable.
pub(super) fn missing(node: &Node, segment: &Segment, wanted: &Name) -> ConfigError {
    let Name { text, origin } = wanted;
    let is_variable = !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let problem = match (segment, &node.value) {
        _ if is_variable => ProblemKind::Invalid {
            message: format!("there is no value at `{text}`"),
            help: Some(format!(
                "write an environment variable as `${{env:{text}}}`, and the text itself as `$${{{text}}}`"
            )),
        },
        (Segment::Key(name), Value::Map(map)) => ProblemKind::UnknownField {
            name: name.clone(),
            allowed: map.keys().cloned().collect(),
        },
        (Segment::Index(index), Value::Seq(items)) => ProblemKind::NoSuchItem {
            index: *index,
            len: items.len(),
        },
        _ => ProblemKind::Invalid {
            message: format!("there is no value at `{text}`: {} has no fields or items", node.describe()),
            help: None,
        },
    };
    ConfigError::new(Path::default(), Some(origin.clone()), problem)
}
