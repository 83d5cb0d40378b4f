//! What is said of a reference that leads nowhere.

use super::template::Name;
use crate::config::{
    error::{ConfigError, Problem},
    node::{Node, Value},
    path::{Path, Segment},
};

/// There is no value at a path. A name alone may have been meant for the shell.
pub(super) fn missing(node: &Node, segment: &Segment, wanted: &Name) -> ConfigError {
    let Name { text, origin } = wanted;
    let is_variable = !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let problem = match (segment, &node.value) {
        _ if is_variable => Problem::Invalid {
            message: format!("there is no value at `{text}`"),
            help: Some(format!(
                "a variable of the environment is written `${{env:{text}}}`, and the text itself `$${{{text}}}`"
            )),
        },
        (Segment::Key(name), Value::Map(map)) => Problem::UnknownField {
            name: name.clone(),
            allowed: map.keys().cloned().collect(),
        },
        (Segment::Index(index), Value::Seq(items)) => Problem::NoSuchItem {
            index: *index,
            len: items.len(),
        },
        _ => Problem::Invalid {
            message: format!("there is no value at `{text}`: {} has no parts", node.describe()),
            help: None,
        },
    };
    ConfigError::new(Path::default(), Some(origin.clone()), problem)
}
