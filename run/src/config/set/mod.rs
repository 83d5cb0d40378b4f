//! Edits from the command line: `--set finetune.optim.lr=1e-4`.
//!
//! | edit | effect |
//! |---|---|
//! | `path=value` | sets a value; maps on the way are created, other keys stay |
//! | `path[+]=value` | appends an item to a list |
//! | `path+=value` | appends the items of a list, or one item; or adds to a number |
//! | `path-=value`, `*=`, `/=` | computes with a number; `8 / 2` stays an integer, `1 / 2` becomes a float |
//! | `path\|=value` | merges a map into a map, as a file would be |
//! | `~path` | deletes a key or a list item |
//!
//! | part | written |
//! |---|---|
//! | path | `a.b[0].c`; a name with other characters than letters, digits, `_` and `-` has quotes: `a."b c"` |
//! | value | YAML up to the end, after the first `=` outside quotes: `[1, 2]`, `{a: 1}`, `1_000`, `1e-4`, `"text"`, `null` |
//! | no value | `name=` is the empty text |
//! | call | `optim.Lion(lr=1e-5, betas=[0.9, 0.99])`, also in lists and maps: a type with its arguments, or a [factory](super::Factories) |
//! | file | `@model.yaml`, `@models.yaml:large`: the content of a file, or of its section |
//! | reference | `${finetune.data.seq_length}`: the value there, see [`super::interpolate`] |
//!
//! Edits are applied in order, each to the value as it is at that moment: what the recipe gave, the file's, or
//! that of an earlier edit. The type of the place decides what a value means: `peft_scheme=none` is the scheme
//! called `none`, `name=1.10` the text, and a text that reads like a call stays a text where a text is asked
//! for.

mod apply;
mod number;
mod parse;

use self::number::Arithmetic;
use super::{
    error::ConfigError,
    node::Node,
    origin::{Origin, Source, Span},
    path::{Path, Step},
    problems::Problems,
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
    Append(Node),
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

    /// Whether the edit computes with the value that it meets.
    pub(crate) fn computes(&self) -> bool {
        matches!(self.action, Action::Add(_) | Action::Compute(..) | Action::Merge(_))
    }

    /// The value that the edit brings.
    pub(crate) fn value_mut(&mut self) -> Option<&mut Node> {
        match &mut self.action {
            Action::Set(value) | Action::Append(value) | Action::Add(value) | Action::Compute(_, value) | Action::Merge(value) => {
                Some(value)
            }
            Action::Delete => None,
        }
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
