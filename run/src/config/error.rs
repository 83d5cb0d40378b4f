//! Problems of a configuration, as data. [`super::diag`] renders them.

use std::fmt;

use super::{
    node::{self, Node},
    origin::Origin,
    path::{Path, Segment},
};

/// One problem of a configuration, with its path and origin.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The dotted path of the value; empty for a problem of the whole text.
    pub path: Path,
    /// The characters to underline; `None` only if there is no text, as for a missing file.
    pub origin: Option<Origin>,
    /// The problem. Boxed to keep `Result`s small.
    pub problem: Box<ProblemKind>,
}

/// A problem of a value, a text or an override.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A file cannot be read.
    #[error("cannot read `{file}`: {reason}")]
    Read {
        /// The file as the user named it.
        file: String,
        /// The system's error.
        reason: String,
    },
    /// A text is not YAML, or not a `--set` override.
    #[error("{reason}")]
    Syntax {
        /// The message.
        reason: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// A map has a key that its type does not know, or an override names a missing key.
    #[error("unknown field `{name}`")]
    UnknownField {
        /// The key as written.
        name: String,
        /// All keys that are known here.
        allowed: Vec<String>,
    },
    /// A name is not one of the names of its type.
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
    /// A map does not name its type.
    #[error("`_target_` is missing")]
    MissingTarget {
        /// All names that `_target_` can have here.
        allowed: Vec<String>,
    },
    /// A value has the wrong type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The expected type, in a user's words.
        expected: String,
        /// The value as written.
        found: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// A number does not fit its type.
    #[error("{found} is out of range: expected {min} to {max}")]
    OutOfRange {
        /// The value as written.
        found: String,
        /// The smallest value.
        min: String,
        /// The largest value.
        max: String,
    },
    /// A list has the wrong number of items.
    #[error("expected {expected} items, found {found}")]
    Length {
        /// Expected number of items.
        expected: usize,
        /// Number of items as written.
        found: usize,
    },
    /// An override names a missing list item.
    #[error("there is no item {index}: the list has {len}")]
    NoSuchItem {
        /// The index as written.
        index: usize,
        /// The length of the list.
        len: usize,
    },
    /// A name or call that the type does not know, but a factory may. [`build`](super::build) replaces it with its value,
    /// or reports `fallback` if no factory has the name.
    #[error("{fallback}")]
    UnresolvedName {
        /// The type's name in Rust.
        type_name: String,
        /// The names that the type knows.
        names: Vec<String>,
        /// The key below this value that holds the name.
        key: Option<String>,
        /// The problem if no factory has the name.
        fallback: Box<Self>,
    },
    /// The value was parsed but violates a rule of its type or across fields.
    #[error("{message}")]
    Invalid {
        /// The message.
        message: String,
        /// What to write instead.
        help: Option<String>,
    },
}

impl ConfigError {
    pub(super) fn new(path: Path, origin: Option<Origin>, problem: ProblemKind) -> Self {
        Self {
            path,
            origin,
            problem: Box::new(problem),
        }
    }

    /// Creates a problem of a typed value, at the place in `root` where the value at `path` was written. If it has its
    /// default, the origin is that of the closest value above it.
    pub fn invalid(root: &Node, path: &str, message: impl Into<String>, help: Option<String>) -> Self {
        // A path that does not parse can only come from this crate's code; it is then shown as one name.
        let path = path.parse().unwrap_or_else(|_| Path(vec![Segment::Key(path.to_owned())]));
        let origin = node::locate_nearest(root, &path.0).clone();
        Self::new(
            path,
            Some(origin),
            ProblemKind::Invalid {
                message: message.into(),
                help,
            },
        )
    }

    /// Prefixes the path with `segment`, and sets the origin if there is none.
    pub(crate) fn within(mut self, segment: Segment, origin: &Origin) -> Self {
        self.path.0.insert(0, segment);
        self.or_at(origin)
    }

    /// Replaces an unresolved name by its fallback problem. `factories` returns the names of a type's factories.
    pub(super) fn with_fallback(mut self, factories: impl FnOnce(&str) -> Vec<String>) -> Self {
        if let ProblemKind::UnresolvedName {
            type_name, key, fallback, ..
        } = &mut *self.problem
        {
            self.path.0.extend(key.take().map(Segment::Key));
            if let ProblemKind::UnknownVariant { allowed, .. } = &mut **fallback {
                let others: Vec<_> = factories(type_name).into_iter().filter(|name| !allowed.contains(name)).collect();
                allowed.extend(others);
            }
            self.problem = std::mem::replace(fallback, Box::new(ProblemKind::MissingField));
        }
        self
    }

    /// Sets the origin if there is none.
    pub(super) fn or_at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }
}

impl ProblemKind {
    /// Returns the problem of a name that is none of `allowed`. A name of NeMo-Run that is not supported here is reported
    /// as such.
    pub(crate) fn unknown_variant(name: String, allowed: Vec<String>) -> Self {
        match neva_schemas::unsupported(&name) {
            Some(known) => Self::Invalid {
                message: format!("`{name}` is not supported yet"),
                help: Some(format!("{}; the names here are {}", known.help, list(&allowed))),
            },
            None => Self::UnknownVariant { name, allowed },
        }
    }

    /// Returns the kind of problem, as a word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::UnresolvedName { fallback, .. } => fallback.kind(),
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

    /// Returns what to write instead, if known.
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
            Self::UnresolvedName { fallback, .. } => fallback.help(),
            Self::Read { .. } | Self::MissingField | Self::OutOfRange { .. } | Self::Length { .. } => None,
        }
    }
}

/// `` `finetune.optim.lr`: expected a number, found `fast` ``; an origin in a recipe is named, because there is no text
/// to quote.
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

/// Returns the most similar name: the closest within an edit distance of a third of `name`'s length.
pub(super) fn nearest<'a>(name: &str, allowed: &'a [String]) -> Option<&'a String> {
    let fold = |name: &str| name.to_lowercase().replace('-', "_");
    let wanted = fold(name);
    let distance = |candidate: &String| {
        let candidate = fold(candidate);
        // `adamw` for `optim.AdamW`: the last segment alone may name a type.
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
