//! Files of a repository that a model needs.

use std::{collections::BTreeSet, path::Path};

use neva_layout::{HubAddress, HubCache};
use serde_json::Value;

/// The config of a model.
pub(crate) const CONFIG: &str = "config.json";
/// Weights in one file.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Index of the files of weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Files of the tokenizer, the image processor and the chat template.
pub(crate) const TOOLS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
];
/// Files that belong to the weights.
const WITH_WEIGHTS: &[&str] = &["generation_config.json"];
/// Files that a model may lack; the cache records missing ones.
pub(super) const OPTIONAL: &[&str] = &["tokenizer.json", "preprocessor_config.json", "processor_config.json"];

/// Files that a caller needs of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// The config.
    Config,
    /// Tokenizer and image processor.
    Tools,
    /// Everything: weights, config, tokenizer and image processor.
    Model,
}

impl Requested {
    /// Returns the files that are downloaded first, because they name other files.
    pub(super) fn first(self) -> &'static [&'static str] {
        match self {
            Self::Config => &[CONFIG],
            Self::Tools => &[],
            Self::Model => &[CONFIG, INDEX],
        }
    }

    /// Returns the names of files that are downloaded if they exist.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let (tools, weights): (&[_], &[_]) = match self {
            Self::Config => (&[], &[]),
            Self::Tools => (TOOLS, &[]),
            Self::Model => (TOOLS, WITH_WEIGHTS),
        };
        tools.iter().chain(weights).copied()
    }
}

/// Files that a snapshot lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    needed: Vec<String>,
    optional: Vec<String>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.needed.is_empty() && self.optional.is_empty()
    }

    /// Returns whether only optional files are missing.
    pub(super) fn is_usable(&self) -> bool {
        self.needed.is_empty()
    }

    pub(super) fn first(&self) -> String {
        self.needed.iter().chain(&self.optional).next().cloned().unwrap_or_default()
    }
}

/// Returns the files that the `snapshot` of `commit` lacks.
pub(super) fn missing(cache: &HubCache, address: &HubAddress, commit: &str, snapshot: &Path, requested: Requested) -> Missing {
    let lacks = |name: &str| !snapshot.join(name).is_file();
    let mut missing = Missing::default();
    if matches!(requested, Requested::Config | Requested::Model) && lacks(CONFIG) {
        missing.needed.push(CONFIG.to_owned());
    }
    if requested == Requested::Model && lacks(WEIGHTS) {
        match shards(&snapshot.join(INDEX)) {
            Some(shards) => missing.needed.extend(shards.into_iter().filter(|name| lacks(name))),
            None => missing.needed.push(WEIGHTS.to_owned()),
        }
    }
    if requested != Requested::Config {
        let unknown = |name: &&&str| lacks(name) && !cache.lacks(address, commit, name);
        missing
            .optional
            .extend(OPTIONAL.iter().filter(unknown).map(|name| (*name).to_owned()));
    }
    missing
}

/// Returns the names of the files in an index; `None` if it cannot be read.
pub(crate) fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let content: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let names = content.get("weight_map")?.as_object()?.values();
    names
        .map(|name| name.as_str().filter(|name| is_plain(name)).map(str::to_owned))
        .collect()
}

/// Returns whether a name is that of a file in the folder of the config, without a path.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.')
}

/// Returns whether `text` is a hash of the hub: SHA-256, or git's SHA-1.
pub(super) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
