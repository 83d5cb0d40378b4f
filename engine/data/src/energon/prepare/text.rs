//! Texts of the metadata. A string in quotes of JSON is also one of YAML.

use neva_schemas::SampleLoader;
use serde_json::{Map, Value as Json, json};

use super::{super::braces::collapse, scan::ScannedShard};
use crate::energon::SampleType;

/// Returns `dataset.yaml`.
pub(super) fn dataset_yaml(loader: &SampleLoader) -> String {
    let name = loader.sample_type.as_deref().unwrap_or_default();
    let known = SampleType::named(name);
    let name = known.map_or(name, |known| known.name());
    let mut text = format!("sample_type:\n  __module__: megatron.energon\n  __class__: {name}\nfield_map:\n");
    for (field, expression) in &loader.field_map {
        text.extend(["  ", field, ": ", &json!(expression).to_string(), "\n"]);
    }
    text
}

/// Returns `split.yaml`.
pub(super) fn split_yaml(splits: &[(String, Vec<String>)], exclude: &[String]) -> String {
    let list = |names: &[String], indent: &str| match names {
        [] => " []\n".to_owned(),
        names => format!(
            "\n{}",
            names.iter().map(|name| format!("{indent}- {}\n", json!(name))).collect::<String>()
        ),
    };
    let parts = splits
        .iter()
        .map(|(name, shards)| format!("  {}:{}", json!(name), list(&collapse(shards), "  ")));
    format!("split_parts:\n{}exclude:{}", parts.collect::<String>(), list(exclude, ""))
}

/// Returns `.info.json`.
pub(super) fn info_json(shards: &[ScannedShard], version: &str) -> String {
    let counts: Map<String, Json> = shards
        .iter()
        .map(|shard| (shard.name.clone(), shard.samples.len().into()))
        .collect();
    let info = json!({ "energon_version": version, "shard_counts": counts });
    format!("{info:#}")
}

/// Returns the identity of the dataset in the form of a UUID: a hash of its samples.
pub(super) fn uuid(shards: &[ScannedShard]) -> String {
    let mut hasher = blake3::Hasher::new();
    for shard in shards {
        hasher.update(shard.name.as_bytes());
        for (sample, offset) in shard.samples.iter().zip(shard.offsets()) {
            hasher.update(sample.key.as_bytes());
            hasher.update(&offset.to_le_bytes());
        }
    }
    let hash = hasher.finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    // Version 8 of RFC 9562: the content is the application's.
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = |range: &[u8]| range.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]]
        .map(hex)
        .join("-")
}
