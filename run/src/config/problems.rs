//! Several problems of a configuration as one error.

use std::fmt;

use super::{error::ConfigError, node::FACTORY, path::Segment};

/// Several problems, reported together. Never empty.
#[derive(Debug, Clone)]
pub struct Problems(Vec<ConfigError>);

impl Problems {
    /// Returns all `errors` as one error, or `Ok` for an empty list.
    ///
    /// # Errors
    /// The given errors.
    pub fn check(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// Adds a problem.
    pub(crate) fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    /// Adds `error` as the first problem, and removes the other problems of its value.
    pub(super) fn put_first(&mut self, error: ConfigError) {
        let is_name = |segment: &&Segment| matches!(segment, Segment::Key(key) if key == FACTORY);
        self.0.retain(|other| {
            let value = match other.path.0.split_last() {
                Some((last, value)) if is_name(&last) => value,
                _ => &other.path.0,
            };
            !error.path.0.starts_with(value)
        });
        self.0.insert(0, error);
    }

    /// Applies `change` to each problem.
    pub(crate) fn map(self, change: impl FnMut(ConfigError) -> ConfigError) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    /// Returns the problems in the order in which they were found.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

impl From<ConfigError> for Problems {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => only.fmt(f),
            several => write!(f, "{} problems in the configuration", several.len()),
        }
    }
}

impl std::error::Error for Problems {}
