//! `generation_config.json`: without it, `generate()` of transformers does not stop.

use super::tokenizer_files::TokenIds;
use serde_json::{Map, Value, json};

/// Returns the base's settings with the tokens of the run. An answer ends with any of `eos_token_id`.
pub(super) fn generation_config(base: Value, ids: &TokenIds) -> Value {
    let mut config = match base {
        Value::Object(base) => base,
        _ => Map::new(),
    };
    let mut ends: Vec<u64> = match config.get("eos_token_id") {
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_u64).collect(),
        Some(one) => one.as_u64().into_iter().collect(),
        None => Vec::new(),
    };
    for end in ids.eos.into_iter().chain(ids.stop).map(u64::from) {
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    match ends[..] {
        [] => {}
        [one] => drop(config.insert("eos_token_id".to_owned(), one.into())),
        _ => drop(config.insert("eos_token_id".to_owned(), json!(ends))),
    }
    for (name, id) in [("bos_token_id", ids.bos), ("pad_token_id", ids.pad.or(ids.eos))] {
        if let Some(id) = id
            && config.get(name).is_none_or(Value::is_null)
        {
            config.insert(name.to_owned(), id.into());
        }
    }
    Value::Object(config)
}
