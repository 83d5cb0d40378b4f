//! What can be wrong with a configuration, as data. How it is shown is in [`super::diag`].

use std::fmt;

use super::{
    node::{self, Node},
    origin::Origin,
    path::{Path, Segment},
};

/// One problem of a configuration: what is wrong, at which path, and where that was written.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The dotted path of the value; empty for a problem of the whole text.
    pub path: Path,
    /// The characters to underline; `None` only where there is no text, as for a missing file.
    pub origin: Option<Origin>,
    /// What is wrong. Boxed to keep `Result`s small.
    pub problem: Box<Problem>,
}

/// What is wrong with a value, a text or an edit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file cannot be read.
    #[error("cannot read `{file}`: {reason}")]
    Read {
        /// The file as the user named it.
        file: String,
        /// What the system said, in words.
        reason: String,
    },
    /// A text is not YAML, or not a `--set` edit.
    #[error("{reason}")]
    Syntax {
        /// What is wrong.
        reason: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// A map has a key that its type does not know, or an edit names a key that is not there.
    #[error("unknown field `{name}`")]
    UnknownField {
        /// The key as written.
        name: String,
        /// All keys that are known here.
        allowed: Vec<String>,
    },
    /// A name is none of those that its type knows.
    #[error("unknown name `{name}`")]
    UnknownVariant {
        /// The name as written.
        name: String,
        /// All names that are known here.
        allowed: Vec<String>,
    },
    /// A required field was not given.
    #[error("required, but not given")]
    MissingField,
    /// A map does not say which type it describes.
    #[error("`_target_` is missing")]
    MissingTarget {
        /// All names that `_target_` can have here.
        allowed: Vec<String>,
    },
    /// A value is of another kind than its type asks for.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the type asks for, in a user's words.
        expected: String,
        /// What was written.
        found: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// A number does not fit its type.
    #[error("{found} is out of range: expected {min} to {max}")]
    OutOfRange {
        /// What was written.
        found: String,
        /// The smallest value.
        min: String,
        /// The largest value.
        max: String,
    },
    /// A list has the wrong number of items.
    #[error("expected {expected} items, found {found}")]
    Length {
        /// How many the type asks for.
        expected: usize,
        /// How many were written.
        found: usize,
    },
    /// An edit names a list item that is not there.
    #[error("there is no item {index}: the list has {len}")]
    NoSuchItem {
        /// The index as written.
        index: usize,
        /// The length of the list.
        len: usize,
    },
    /// A name or call that a type does not know by itself; a factory may. [`build`](super::build) puts in its
    /// place what it stands for, and turns what is left into the problem that it is otherwise.
    #[error("{otherwise}")]
    NotBuilt {
        /// The type's name in Rust.
        type_name: String,
        /// The names that the type knows.
        names: Vec<String>,
        /// The key below this value that holds the name.
        key: Option<String>,
        /// What it is where no factory has the name.
        otherwise: Box<Self>,
    },
    /// The value was understood and is not acceptable: a rule of its type, or one across fields.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What to write instead.
        help: Option<String>,
    },
}

impl ConfigError {
    pub(super) fn new(path: Path, origin: Option<Origin>, problem: Problem) -> Self {
        Self {
            path,
            origin,
            problem: Box::new(problem),
        }
    }

    /// A problem found on a typed value, led back to the place in `root` where the value at `path`
    /// was written. Where it was left to its default, the closest value above it is shown.
    pub fn invalid(root: &Node, path: &str, message: impl Into<String>, help: Option<String>) -> Self {
        // A path that does not parse can only come from our own code; it is then shown as one name.
        let path = path.parse().unwrap_or_else(|_| Path(vec![Segment::Key(path.to_owned())]));
        let origin = node::locate_nearest(root, &path.0).clone();
        Self::new(
            path,
            Some(origin),
            Problem::Invalid {
                message: message.into(),
                help,
            },
        )
    }

    /// The same problem seen from one level further up.
    pub(crate) fn within(mut self, segment: Segment, origin: &Origin) -> Self {
        self.path.0.insert(0, segment);
        self.or_at(origin)
    }

    /// What is left of a name that nothing stands for. `factories` are the names of those that could have.
    pub(super) fn settled(mut self, factories: impl FnOnce(&str) -> Vec<String>) -> Self {
        if let Problem::NotBuilt {
            type_name, key, otherwise, ..
        } = &mut *self.problem
        {
            self.path.0.extend(key.take().map(Segment::Key));
            if let Problem::UnknownVariant { allowed, .. } = &mut **otherwise {
                allowed.extend(factories(type_name));
            }
            self.problem = std::mem::replace(otherwise, Box::new(Problem::MissingField));
        }
        self
    }

    /// Sets the origin where none is known yet.
    pub(super) fn or_at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }
}

impl Problem {
    /// The kind of problem, in a word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::NotBuilt { otherwise, .. } => otherwise.kind(),
            Self::Syntax { .. } => "syntax",
            Self::UnknownField { .. } => "unknown_field",
            Self::UnknownVariant { .. } => "unknown_name",
            Self::MissingField => "missing_field",
            Self::MissingTarget { .. } => "missing_target",
            Self::WrongType { .. } => "wrong_type",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Length { .. } => "length",
            Self::NoSuchItem { .. } => "no_such_item",
            Self::Invalid { .. } => "invalid",
        }
    }

    /// What to write instead, where that can be said.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::UnknownField { name, allowed } => Some(match nearest(name, allowed) {
                Some(near) => format!("did you mean `{near}`? The fields here are {}", list(allowed)),
                None if allowed.is_empty() => "there are no fields here".to_owned(),
                None => format!("the fields here are {}", list(allowed)),
            }),
            Self::UnknownVariant { name, allowed } => Some(match nearest(name, allowed) {
                Some(near) => format!("did you mean `{near}`? The names here are {}", list(allowed)),
                None => format!("the names here are {}", list(allowed)),
            }),
            Self::MissingTarget { allowed } => Some(format!("add `_target_:` with one of {}", list(allowed))),
            Self::NoSuchItem { .. } => Some("items count from 0; `+=` appends to a list".to_owned()),
            Self::Syntax { help, .. } | Self::WrongType { help, .. } | Self::Invalid { help, .. } => help.clone(),
            Self::NotBuilt { otherwise, .. } => otherwise.help(),
            Self::Read { .. } | Self::MissingField | Self::OutOfRange { .. } | Self::Length { .. } => None,
        }
    }
}

/// `` `finetune.optim.lr`: expected a number, found `fast` ``; a recipe is named, as there is no text
/// of it to show.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.0.is_empty() {
            write!(f, "`{}`: ", self.path)?;
        }
        self.problem.fmt(f)?;
        match &self.origin {
            Some(origin @ Origin::Recipe { .. }) => write!(f, " (set by {origin})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// `` `a`, `b`, `c` ``
pub(super) fn list(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

/// The name that `name` was most likely meant to be: the closest within a third of its length.
fn nearest<'a>(name: &str, allowed: &'a [String]) -> Option<&'a String> {
    let fold = |name: &str| name.to_lowercase().replace('-', "_");
    let wanted = fold(name);
    let distance = |candidate: &String| {
        let candidate = fold(candidate);
        // `adamw` for `optim.AdamW`: the last part alone names a type well enough.
        let tail = candidate.rsplit('.').next().unwrap_or(&candidate);
        strsim::damerau_levenshtein(&wanted, &candidate).min(strsim::damerau_levenshtein(&wanted, tail))
    };
    let limit = wanted.chars().count().div_ceil(3);
    allowed
        .iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}
