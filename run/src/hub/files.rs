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

/// Weights as a pickle, in one file.
pub(crate) const PICKLE: &str = "pytorch_model.bin";
/// Index of several pickles.
pub(crate) const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";
/// Adapters of peft.
pub(crate) const ADAPTERS: &[&str] = &["adapter_model.safetensors", "adapter_model.bin"];
/// Config of adapters of peft.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Trained weights beside the adapters of the original LLaVA repository.
pub(crate) const NON_LORA: &str = "non_lora_trainables.bin";
/// A projector alone, of the original LLaVA repository.
pub(crate) const PROJECTOR: &str = "mm_projector.bin";
/// Files of a part of a model that an import completes.
const PARTS: &[&str] = &[
    "adapter_model.safetensors",
    "adapter_model.bin",
    ADAPTER_CONFIG,
    NON_LORA,
    PROJECTOR,
];

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
    /// The same in any format that an import reads: pickles, GGUF, adapters, and a projector alone, too.
    Import,
}

impl Requested {
    /// Returns the files that are downloaded first, because they name other files.
    pub(super) fn first(self) -> &'static [&'static str] {
        match self {
            Self::Config => &[CONFIG],
            Self::Tools => &[],
            Self::Model => &[CONFIG, INDEX],
            Self::Import => &[CONFIG, INDEX, PICKLE_INDEX],
        }
    }

    /// Returns the names of files that are downloaded if they exist.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let (tools, weights): (&[_], &[_]) = match self {
            Self::Config => (&[], &[]),
            Self::Tools => (TOOLS, &[]),
            Self::Model | Self::Import => (TOOLS, WITH_WEIGHTS),
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

/// Returns the names of the files with the weights of a repository, of which `has` says the files and `names` all names. The
/// indices of shards are in `snapshot`. `None`: it has no weights that `requested` allows.
pub(super) fn weights(requested: Requested, names: &[String], snapshot: &Path) -> Option<Result<Vec<String>, &'static str>> {
    let has = |name: &str| names.iter().any(|own| own == name);
    let pairs: &[(&str, &str)] = match requested {
        Requested::Import => &[(WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)],
        _ => &[(WEIGHTS, INDEX)],
    };
    for (single, index) in pairs {
        if has(single) {
            return Some(Ok(vec![(*single).to_owned()]));
        }
        if has(index) {
            let shards = shards(&snapshot.join(index));
            return Some(shards.map(|shards| shards.into_iter().collect()).ok_or(*index));
        }
    }
    if requested != Requested::Import {
        return None;
    }
    let parts: Vec<_> = PARTS.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
    if parts.iter().any(|name| name != ADAPTER_CONFIG) {
        return Some(Ok(parts));
    }
    let gguf: Vec<_> = names.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
    (gguf.len() == 1).then_some(Ok(gguf))
}

/// Returns the files that the `snapshot` of `commit` lacks.
pub(super) fn missing(cache: &HubCache, address: &HubAddress, commit: &str, snapshot: &Path, requested: Requested) -> Missing {
    let lacks = |name: &str| !snapshot.join(name).is_file();
    let mut missing = Missing::default();
    let mut has_gguf = false;
    if matches!(requested, Requested::Model | Requested::Import) {
        let entries = std::fs::read_dir(snapshot).into_iter().flatten().filter_map(Result::ok);
        let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        match weights(requested, &names, snapshot) {
            Some(Ok(names)) => {
                has_gguf = names.iter().any(|name| name.ends_with(".gguf"));
                missing.needed.extend(names.into_iter().filter(|name| lacks(name)));
            }
            _ => missing.needed.push(WEIGHTS.to_owned()),
        }
    }
    if requested != Requested::Tools && lacks(CONFIG) && !has_gguf {
        missing.needed.insert(0, CONFIG.to_owned());
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
