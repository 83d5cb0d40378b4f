//! Overrides from the command line: `--set finetune.optim.lr=1e-4`.
//!
//! | override | effect |
//! |---|---|
//! | `path=value` | sets a value; missing maps are created, other keys stay |
//! | `path[+]=value` | appends an item to a list |
//! | `path+=value` | appends the items of a list, or one item; joins texts; or adds to a number |
//! | `path-=value`, `*=`, `/=` | computes with a number; `8 / 2` stays an integer, `1 / 2` becomes a float |
//! | `path\|=value` | merges a map into a map, as a file is merged |
//! | `~path` | deletes a key or a list item |
//!
//! | part | written |
//! |---|---|
//! | path | `a.b[0].c`; a name with other characters than letters, digits, `_` and `-` has quotes: `a."b c"` |
//! | value | YAML up to the end, after the first `=` outside quotes: `[1, 2]`, `{a: 1}`, `1_000`, `1e-4`, `"text"`, `null` |
//! | no value | `name=` means an empty text |
//! | call | `optim.Lion(lr=1e-5, betas=[0.9, 0.99])`, also in lists and maps: a type with its arguments, or a [factory](super::Factories) |
//! | file | `@model.yaml`, `@models.yaml:large`: the content of a file, or of its section |
//! | reference | `${finetune.data.seq_length}`: the value at the path, see [`super::interpolate`] |
//!
//! Overrides are applied in order, each to the present value: that of the recipe, the file or an earlier override. The
//! expected type decides the meaning of a value: `peft_scheme=none` is the scheme called `none`, `name=1.10` is text, and
//! a text that looks like a call stays text where text is expected.

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
pub struct Override {
    source: Arc<Source>,
    /// At least one.
    steps: Vec<Step>,
    action: Action,
}

/// The action of an [`Override`] at its path.
#[derive(Debug, Clone)]
enum Action {
    Set(Node),
    Append(Node),
    Add(Node),
    Compute(Arithmetic, Node),
    Merge(Node),
    Delete,
}

impl Override {
    /// Parses the argument of `--set`.
    ///
    /// # Errors
    /// A text without `=`, or an invalid path or value; the origin of the error is the offending characters of `text`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        parse::parse(&Source::new("--set", text))
    }

    /// Returns the path that the override sets.
    pub fn path(&self) -> Path {
        Path(self.steps.iter().map(|step| step.segment.clone()).collect())
    }

    /// Applies the override to `root`. On an error `root` may hold new empty maps on the path, and is otherwise unchanged.
    ///
    /// # Errors
    /// A path through a scalar or past the end of a list, an operation that does not apply to the present value, or a
    /// deletion of a missing value.
    pub fn apply(&self, root: &mut Node) -> Result<(), ConfigError> {
        apply::apply(self, root)
    }

    /// Returns whether the override computes with the present value.
    pub(crate) fn computes(&self) -> bool {
        matches!(self.action, Action::Add(_) | Action::Compute(..) | Action::Merge(_))
    }

    /// Returns the value of the override.
    pub(crate) fn value_mut(&mut self) -> Option<&mut Node> {
        match &mut self.action {
            Action::Set(value) | Action::Append(value) | Action::Add(value) | Action::Compute(_, value) | Action::Merge(value) => {
                Some(value)
            }
            Action::Delete => None,
        }
    }

    /// Returns the origin of the override's value.
    pub(crate) fn value_origin(&self) -> Option<Origin> {
        match &self.action {
            Action::Set(value) | Action::Append(value) | Action::Add(value) | Action::Compute(_, value) | Action::Merge(value) => {
                Some(value.origin.clone())
            }
            Action::Delete => self.steps.last().map(|step| self.origin(step.span)),
        }
    }

    /// Returns the origin of the characters at `span`.
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
/// All overrides that cannot be parsed, or else all that cannot be applied.
pub fn apply_overrides<'a>(root: &mut Node, texts: impl IntoIterator<Item = &'a str>) -> Result<(), Problems> {
    let mut overrides = Vec::new();
    let mut errors = Vec::new();
    for text in texts {
        match Override::parse(text) {
            Ok(over) => overrides.push(over),
            Err(error) => errors.push(error),
        }
    }
    Problems::check(errors)?;
    Problems::check(overrides.iter().filter_map(|over| over.apply(root).err()).collect())
}
