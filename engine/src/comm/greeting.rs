//! What ranks must agree on before the first step, and where they do not.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What every rank must agree on before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// The launch plan: whatever a run depends on, its seeds among it.
    pub plan: Value,
    /// Version of this program.
    pub version: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// What ranks talk through.
    pub transport: String,
}

/// At most so many differences are named, the rest is counted.
const NAMED: usize = 5;

/// In words, what differs between two greetings, as they were sent; none where nothing does.
pub(super) fn difference(first: &[u8], own: &[u8], rank: u32) -> Option<String> {
    if first == own {
        return None;
    }
    let (Ok(first), Ok(own)) = (serde_json::from_slice(first), serde_json::from_slice(own)) else {
        return Some(format!("rank 0 is another version of this program than rank {rank}"));
    };
    let mut found = Vec::new();
    walk("", Some(&first), Some(&own), &mut found);
    // Written otherwise, such as 0.0 and -0.0.
    if found.is_empty() {
        return None;
    }
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let list: Vec<_> = found
        .iter()
        .map(|(path, first, own)| format!("`{path}` is {first} on rank 0 and {own} on rank {rank}"))
        .collect();
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(list.join(", ") + &more)
}

/// Adds the paths at which two values differ, with what stands there.
fn walk(path: &str, first: Option<&Value>, own: Option<&Value>, found: &mut Vec<(String, String, String)>) {
    if let (Some((a, first)), Some((b, own))) = (first.and_then(tagged), own.and_then(tagged)) {
        // What is within is written beside the type's name.
        if a == b {
            walk(path, Some(first), Some(own), found);
        } else {
            found.push((written(path), a.clone(), b.clone()));
        }
        return;
    }
    match (first, own) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&below, a.get(key), b.get(key), found);
            }
        }
        _ if first == own => {}
        _ => found.push((written(path), shown(first), shown(own))),
    }
}

/// A path as the user writes it: what is his lies in the plan's run.
fn written(path: &str) -> String {
    let own = ["plan.run.", "plan."].iter().find_map(|prefix| path.strip_prefix(prefix));
    own.unwrap_or(path).to_owned()
}

/// The name of a type of which several may stand there (`optim.AdamW`), which the user gives as `_target_`, and its
/// arguments.
fn tagged(value: &Value) -> Option<(&String, &Value)> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let (name, arguments) = object.iter().next()?;
    let last = name.rsplit('.').next()?;
    last.starts_with(|first: char| first.is_uppercase()).then_some((name, arguments))
}

/// A value in few characters.
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
        let sent = |greeting: &Value| serde_json::to_vec(greeting).unwrap_or_default();
        assert_eq!(difference(&sent(&first), &sent(&own), 3).unwrap_or_default(), expected);
    }

    #[test]
    fn differences_are_named_as_the_user_writes_them() {
        let greeting = |lr: f64, peft: Value| {
            let run = json!({ "finetune": { "optim": { "optim.AdamW": { "lr": lr } }, "peft": peft }, "nemo_compat": false });
            json!({ "plan": { "num_nodes": 1, "run": run }, "version": "1" })
        };
        check(greeting(0.1, Value::Null), greeting(0.1, Value::Null), "");
        assert_eq!(difference(br#"{"lr": 0.0, "a": 1}"#, br#"{"a": 1, "lr": -0.0}"#, 3), None);
        check(
            greeting(0.1, Value::Null),
            greeting(0.2, json!({"_target_": "LoRA"})),
            "`finetune.optim.lr` is 0.1 on rank 0 and 0.2 on rank 3, \
             `finetune.peft` is null on rank 0 and {\"_target_\":\"LoRA\"} on rank 3",
        );
        let mut lion = greeting(0.1, Value::Null);
        lion["plan"]["run"]["finetune"]["optim"] = json!({ "optim.Lion": { "lr": 0.1 } });
        check(
            greeting(0.1, Value::Null),
            lion,
            "`finetune.optim` is optim.AdamW on rank 0 and optim.Lion on rank 3",
        );
        let mut other = greeting(0.1, Value::Null);
        other["version"] = json!("2");
        other["plan"]["num_nodes"] = json!(2);
        check(
            greeting(0.1, Value::Null),
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
