//! A sample as it is in its files: named parts, which are read when they are asked for.

use std::{path::PathBuf, sync::Arc};

use serde_json::Value as Json;

use super::shard::{Located, Shard};
use crate::error::DataError;

/// A sample before its mapping. A joined sample has the parts of several ones, as `NAME.PART`.
pub struct RawSample {
    key: String,
    /// Name of the shard and key, for messages.
    name: String,
    sources: Vec<Source>,
}

struct Source {
    /// `NAME.` in a join, otherwise empty.
    prefix: String,
    content: Content,
}

enum Content {
    Tar {
        path: PathBuf,
        located: Located,
    },
    /// One line of JSON, the part `json`.
    Line(Vec<u8>),
}

/// Maximum size of a part of text or JSON, in bytes.
const MAX_TEXT: u64 = 256 << 20;

/// Maximum size of an image file, in bytes.
const MAX_IMAGE: u64 = 1 << 30;

impl RawSample {
    pub(super) fn of_shard(shard: &Arc<Shard>, index: usize, root: &std::path::Path) -> Result<Self, DataError> {
        let located = shard.sample(index)?;
        let path = shard.path.strip_prefix(root).unwrap_or(&shard.path);
        Ok(Self {
            key: located.key.clone(),
            name: format!("{}: sample {}", path.display(), located.key),
            sources: vec![Source {
                prefix: String::new(),
                content: Content::Tar {
                    path: shard.path.clone(),
                    located,
                },
            }],
        })
    }

    pub(super) fn of_line(file: &str, index: usize, line: Vec<u8>) -> Self {
        Self {
            key: index.to_string(),
            name: format!("{file}: sample {index}"),
            sources: vec![Source {
                prefix: String::new(),
                content: Content::Line(line),
            }],
        }
    }

    /// Adds the parts of `other` as `name.PART`, and gives those of this sample the name `own`.
    pub(super) fn joined(own: &str, mut first: Self, others: Vec<(&str, Self)>) -> Self {
        first.sources.iter_mut().for_each(|source| source.prefix = format!("{own}."));
        for (name, other) in others {
            first.sources.extend(other.sources.into_iter().map(|source| Source {
                prefix: format!("{name}."),
                ..source
            }));
        }
        first
    }

    /// Returns the key of the sample.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns shard and key, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the names of the parts.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let names = self.sources.iter().flat_map(|source| match &source.content {
            Content::Tar { located, .. } => located.parts.iter().map(|part| format!("{}{}", source.prefix, part.name)).collect(),
            Content::Line(_) => vec![format!("{}json", source.prefix)],
        });
        names.collect()
    }

    /// Returns whether there is a part of this name.
    #[must_use]
    pub fn contains(&self, part: &str) -> bool {
        self.sources
            .iter()
            .any(|source| match (&source.content, part.strip_prefix(&source.prefix)) {
                (Content::Tar { located, .. }, Some(part)) => located.parts.iter().any(|own| own.name == part),
                (Content::Line(_), Some(part)) => part == "json",
                _ => false,
            })
    }

    /// Reads a part.
    ///
    /// # Errors
    /// The shard cannot be read.
    fn read(&self, part: &str, limit: u64) -> Result<Vec<u8>, DataError> {
        for source in &self.sources {
            let Some(own) = part.strip_prefix(&source.prefix) else { continue };
            match &source.content {
                Content::Line(line) if own == "json" => return Ok(line.clone()),
                Content::Line(_) => {}
                Content::Tar { path, located } => {
                    // As in a dictionary of Python, the last part of a name counts.
                    let Some(place) = located.parts.iter().rfind(|place| place.name == own) else {
                        continue;
                    };
                    let size = place.content.end - place.content.start;
                    if size > limit {
                        return Err(self.invalid(part, format!("has {size} bytes, more than the limit of {limit}")));
                    }
                    return located
                        .read(&place.content)
                        .map_err(|error| DataError::Read { path: path.clone(), error });
                }
            }
        }
        Err(self.missing(part))
    }

    /// Reads a part of text.
    ///
    /// # Errors
    /// There is no such part, or it is not UTF-8.
    pub fn text(&self, part: &str) -> Result<String, DataError> {
        String::from_utf8(self.read(part, MAX_TEXT)?).map_err(|_| self.invalid(part, "is not UTF-8 text"))
    }

    /// Reads a part of JSON.
    ///
    /// # Errors
    /// There is no such part, or it is not JSON.
    pub fn json(&self, part: &str) -> Result<Json, DataError> {
        let bytes = self.read(part, MAX_TEXT)?;
        // Energon's decoder skips a byte order mark, too.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        serde_json::from_slice(text).map_err(|error| self.invalid(part, format!("is not JSON: {error}")))
    }

    /// Reads the file of an image.
    ///
    /// # Errors
    /// There is no such part.
    pub fn image(&self, part: &str) -> Result<Vec<u8>, DataError> {
        self.read(part, MAX_IMAGE)
    }

    /// Returns the error of a part that is not there.
    pub(super) fn missing(&self, part: &str) -> DataError {
        self.invalid(
            part,
            format!("there is no part of this name; the sample has {}", self.parts().join(", ")),
        )
    }

    /// Returns the error of a part or field.
    pub(super) fn invalid(&self, field: &str, reason: impl Into<String>) -> DataError {
        DataError::EnergonSample {
            sample: self.name.clone(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }
}
