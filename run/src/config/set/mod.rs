//! Edits from the command line: `--set finetune.optim.lr=1e-4`.
//!
//! | edit | effect |
//! |---|---|
//! | `path=value` | sets a value; maps on the way are created, other keys stay |
//! | `path+=value` | appends to a list, or adds to a number |
//! | `path-=value`, `*=`, `/=` | computes with a number |
//! | `path\|=value` | merges a map into a map |
//! | `~path` | deletes a key or a list item |
//!
//! The value is YAML, cut at the first `=` outside quotes: `[1, 2]`, `{a: 1}`, `1e-4`, `"text"`. No
//! value at all (`name=`) is the empty text.

mod apply;
mod number;
mod parse;

use self::number::Arithmetic;
use super::{
    error::{ConfigError, Problems},
    node::Node,
    origin::{Origin, Source, Span},
    path::{Path, Step},
};
use std::sync::Arc;

/// One parsed `--set`.
#[derive(Debug, Clone)]
pub struct Edit {
    source: Arc<Source>,
    /// At least one.
    steps: Vec<Step>,
    action: Action,
}

/// What an [`Edit`] does at its path.
#[derive(Debug, Clone)]
enum Action {
    Set(Node),
    Add(Node),
    Compute(Arithmetic, Node),
    Merge(Node),
    Delete,
}

impl Edit {
    /// Parses the text behind `--set`.
    ///
    /// # Errors
    /// A text without `=`, a path or a value that cannot be read; the offending characters of `text`
    /// are the error's origin.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        parse::edit(&Source::new("--set", text))
    }

    /// Where the edit leads.
    pub fn path(&self) -> Path {
        Path(self.steps.iter().map(|step| step.segment.clone()).collect())
    }

    /// Applies the edit to `root`. On an error `root` may hold empty maps that were created on the
    /// way, and is otherwise unchanged.
    ///
    /// # Errors
    /// A path that leads through a scalar or past the end of a list, an operation that does not fit
    /// the value it meets, or a deletion of what is not there.
    pub fn apply(&self, root: &mut Node) -> Result<(), ConfigError> {
        apply::edit(self, root)
    }

    /// The origin of the characters at `span`.
    fn origin(&self, span: Span) -> Origin {
        Origin::Set {
            source: Arc::clone(&self.source),
            span,
        }
    }
}

/// Parses all `texts` and applies them to `root` in order.
///
/// # Errors
/// All edits that cannot be parsed, or else all that cannot be applied.
pub fn apply_edits<'a>(root: &mut Node, texts: impl IntoIterator<Item = &'a str>) -> Result<(), Problems> {
    let mut edits = Vec::new();
    let mut errors = Vec::new();
    for text in texts {
        match Edit::parse(text) {
            Ok(edit) => edits.push(edit),
            Err(error) => errors.push(error),
        }
    }
    Problems::check(errors)?;
    Problems::check(edits.iter().filter_map(|edit| edit.apply(root).err()).collect())
}
