//! Handshake of the ranks: compares plan, versions and transport before the first step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Values that must be the same on every rank before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// The launch plan: everything that a run depends on, including its seeds.
    pub plan: Value,
    /// Version of this program.
    pub version: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// Communication backend, with its version.
    pub transport: String,
}

/// Maximum number of differences that are listed; the rest is counted.
const MAX_LISTED: usize = 5;

/// Describes the differences between the serialized handshakes of rank 0 and `rank`; `None` if they are equal.
pub(super) fn difference(first: &[u8], own: &[u8], rank: u32) -> Option<String> {
    if first == own {
        return None;
    }
    let (Ok(first), Ok(own)) = (serde_json::from_slice(first), serde_json::from_slice(own)) else {
        return Some(format!("rank 0 runs another version of this program than rank {rank}"));
    };
    let mut found = Vec::new();
    collect_differences("", Some(&first), Some(&own), &mut found);
    // Equal values with different text, such as 0.0 and -0.0.
    if found.is_empty() {
        return None;
    }
    let more = found.len().saturating_sub(MAX_LISTED);
    found.truncate(MAX_LISTED);
    let list: Vec<_> = found
        .iter()
        .map(|(path, first, own)| format!("`{path}` is {first} on rank 0 and {own} on rank {rank}"))
        .collect();
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(list.join(", ") + &more)
}

/// Appends the paths at which two values differ, with both values.
fn collect_differences(path: &str, first: Option<&Value>, own: Option<&Value>, found: &mut Vec<(String, String, String)>) {
    if let (Some((a, first)), Some((b, own))) = (first.and_then(tagged), own.and_then(tagged)) {
        // Paths do not contain the type's name.
        if a == b {
            collect_differences(path, Some(first), Some(own), found);
        } else {
            found.push((config_path(path), a.clone(), b.clone()));
        }
        return;
    }
    match (first, own) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect_differences(&below, a.get(key), b.get(key), found);
            }
        }
        _ if first == own => {}
        _ => found.push((config_path(path), shown(first), shown(own))),
    }
}

/// Converts a path in the handshake to the path of the user's config, which is the plan's `run`.
fn config_path(path: &str) -> String {
    let own = ["plan.run.", "plan."].iter().find_map(|prefix| path.strip_prefix(prefix));
    own.unwrap_or(path).to_owned()
}

/// Splits a tagged value into its type name (`optim.AdamW`), which the user gives as `_target_`, and its arguments.
fn tagged(value: &Value) -> Option<(&String, &Value)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (name, arguments) = object.iter().next()?;
    let last = name.rsplit('.').next()?;
    last.starts_with(|first: char| first.is_uppercase()).then_some((name, arguments))
}

/// Formats a value, shortened to 60 characters.
fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "not there".into() };
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(first: Value, own: Value, expected: &str) {
        let sent = |handshake: &Value| serde_json::to_vec(handshake).unwrap_or_default();
        assert_eq!(difference(&sent(&first), &sent(&own), 3).unwrap_or_default(), expected);
    }

    #[test]
    fn differences_are_named_as_the_user_writes_them() {
        let handshake = |lr: f64, peft: Value| {
            let run = json!({ "finetune": { "optim": { "optim.AdamW": { "lr": lr } }, "peft": peft }, "nemo_compat": false });
            json!({ "plan": { "num_nodes": 1, "run": run }, "version": "1" })
        };
        check(handshake(0.1, Value::Null), handshake(0.1, Value::Null), "");
        assert_eq!(difference(br#"{"lr": 0.0, "a": 1}"#, br#"{"a": 1, "lr": -0.0}"#, 3), None);
        check(
            handshake(0.1, Value::Null),
            handshake(0.2, json!({"_target_": "LoRA"})),
            "`finetune.optim.lr` is 0.1 on rank 0 and 0.2 on rank 3, \
             `finetune.peft` is null on rank 0 and {\"_target_\":\"LoRA\"} on rank 3",
        );
        let mut lion = handshake(0.1, Value::Null);
        lion["plan"]["run"]["finetune"]["optim"] = json!({ "optim.Lion": { "lr": 0.1 } });
        check(
            handshake(0.1, Value::Null),
            lion,
            "`finetune.optim` is optim.AdamW on rank 0 and optim.Lion on rank 3",
        );
        let mut other = handshake(0.1, Value::Null);
        other["version"] = json!("2");
        other["plan"]["num_nodes"] = json!(2);
        check(
            handshake(0.1, Value::Null),
            other,
            "`num_nodes` is 1 on rank 0 and 2 on rank 3, `version` is \"1\" on rank 0 and \"2\" on rank 3",
        );
    }

    #[test]
    fn many_differences_are_counted() {
        let many = |value: i32| json!({ "plan": (0..8).map(|key| (key.to_string(), json!(value))).collect::<serde_json::Map<_, _>>() });
        let text = difference(
            &serde_json::to_vec(&many(0)).unwrap_or_default(),
            &serde_json::to_vec(&many(1)).unwrap_or_default(),
            1,
        );
        assert!(text.is_some_and(|text| text.ends_with("`4` is 0 on rank 0 and 1 on rank 1, and 3 more")));
        assert!(difference(b"{", b"{}", 1).is_some_and(|text| text.contains("another version")));
    }
}
