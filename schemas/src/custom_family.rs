//! A model family of the rank program's own.

use crate::validate::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A family as it is written: its `_target_`, and whatever arguments it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomFamily(pub Map<String, Value>);

impl CustomFamily {
    /// A family without arguments.
    pub fn named(target: &str) -> Self {
        Self(Map::from_iter([("_target_".to_owned(), target.into())]))
    }

    /// The name that it is registered under.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }

    /// Appends an error where the name is not that of an own type. Whether it is registered, only the rank program
    /// knows.
    pub(crate) fn validate(&self, path: &str, builtin: &str, problems: &mut Vec<Problem>) {
        if !self.target().contains("::") {
            problems.push(
                Problem::error(format!("{path}._target_"), format!("there is no model family {:?}", self.target())).help(format!(
                    "built in is {builtin}; an own family is named by its path, my_crate::MyFamily"
                )),
            );
        }
    }
}
