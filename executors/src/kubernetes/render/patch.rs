//! Changes of a rendered object by path: `overrides` of the executor.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::refused;
use crate::error::ExecutorError;

/// Sets the value at each path, in order of the paths; `null` removes it.
pub(super) fn apply_overrides(object: &mut Value, overrides: &BTreeMap<String, Value>) -> Result<(), ExecutorError> {
    for (path, value) in overrides {
        set(object, path, value).map_err(|problem| {
            refused(
                format!("`executor.overrides` cannot change {path:?}: {problem}"),
                "write a path of the rendered object, as `spec.template.spec.hostIPC`; a number selects an item of a list",
            )
        })?;
    }
    Ok(())
}

fn set(object: &mut Value, path: &str, value: &Value) -> Result<(), String> {
    let names = split(path);
    let Some((last, parents)) = names.split_last().filter(|_| names.iter().all(|name| !name.is_empty())) else {
        return Err("a name is empty".to_owned());
    };
    let mut place = object;
    for name in parents {
        place = match place {
            Value::Array(items) => {
                let length = items.len();
                let item = name.parse::<usize>().ok().and_then(|index| items.get_mut(index));
                item.ok_or_else(|| format!("{name:?} is not an item of a list of {length}"))?
            }
            Value::Object(map) => map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())),
            _ => return Err(format!("what contains {name:?} is neither a map nor a list")),
        };
    }
    match place {
        Value::Object(map) if value.is_null() => drop(map.shift_remove(last)),
        Value::Object(map) => drop(map.insert(last.clone(), value.clone())),
        Value::Array(items) => match last.parse::<usize>() {
            Ok(index) if index < items.len() && value.is_null() => drop(items.remove(index)),
            Ok(index) if index < items.len() => items[index] = value.clone(),
            // The item behind the last one.
            Ok(index) if index == items.len() && !value.is_null() => items.push(value.clone()),
            _ => return Err(format!("{last:?} is not an item of a list of {}", items.len())),
        },
        _ => return Err(format!("what contains {last:?} is neither a map nor a list")),
    }
    Ok(())
}

/// Splits a path at its dots, except those behind `\`.
fn split(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = path.chars();
    while let Some(c) = characters.next() {
        match (c, names.last_mut()) {
            ('.', _) => names.push(String::new()),
            ('\\', Some(name)) => name.extend(characters.next()),
            (c, Some(name)) => name.push(c),
            (_, None) => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_names_one_place() {
        let mut object = json!({"spec": {"list": [{"a": 1}, {"a": 2}], "old": 1}});
        for (path, value) in [
            ("metadata.labels.example\\.org/team", json!("x")),
            ("spec.list.1.a", json!([3])),
            ("spec.list.2", json!({"a": 9})),
            ("spec.list.0", json!(null)),
            ("spec.old", json!(null)),
            ("spec.absent", json!(null)),
        ] {
            set(&mut object, path, &value).unwrap();
        }
        let expected = json!({
            "spec": {"list": [{"a": [3]}, {"a": 9}]},
            "metadata": {"labels": {"example.org/team": "x"}},
        });
        assert_eq!(object, expected);
        for (path, problem) in [
            ("spec.list.5.a", "not an item of a list of 2"),
            ("spec.list.x", "not an item"),
            ("spec.list.0.a.0.b", "neither a map nor a list"),
            ("spec..a", "a name is empty"),
            ("", "a name is empty"),
        ] {
            let error = set(&mut object, path, &json!(1)).unwrap_err();
            assert!(error.contains(problem), "{path}: {error}");
        }
    }
}
