//! From types as serde sees them to maps as files spell them.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

/// Types whose values are no part of a recipe, and take neither references nor deletions.
const NOT_OF_RECIPES: &[&str] = &["Executor", "LocalExecutor", "Dependency", "When", "SweepMode"];

/// Text that stands for a value of another type: a reference.
const REFERENCE: &str = r"\$\{";
/// Text that stands for a map: a reference, a file, a name or a call of what returns one.
const CALL: &str = r"\$\{|^@|^[A-Za-z_][\w.:]*(\(.*\))?$";

/// The types that were met, as files spell them.
pub(super) fn definitions(generator: &mut SchemaGenerator) -> Value {
    let mut definitions = Value::Object(generator.take_definitions(true));
    partial(&mut definitions);
    if let Some(finetune) = definitions.get_mut("Finetune").and_then(Value::as_object_mut) {
        // A section whose lines are all comments is null.
        finetune.insert("type".into(), json!(["object", "null"]));
    }
    targets(&mut definitions);
    for (name, definition) in definitions.as_object_mut().into_iter().flatten() {
        if !NOT_OF_RECIPES.contains(&name.as_str()) {
            references(definition);
        }
    }
    // No recipe fills an executor, so nothing else says which one it is.
    let executors = definitions.pointer_mut("/Executor/anyOf").and_then(Value::as_array_mut);
    for executor in executors.into_iter().flatten() {
        executor["required"] = json!(["_target_"]);
    }
    definitions
}

/// A file overrides parts of a graph that the recipe fills, so no field is required.
fn partial(definitions: &mut Value) {
    for definition in definitions.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Some(object) = definition.as_object_mut() {
            object.remove("required");
        }
    }
}

/// Lets a definition be written as a reference, a file or a call, and what is in it be deleted.
fn references(definition: &mut Value) {
    if let Some(names) = definition.get_mut("oneOf").and_then(Value::as_array_mut) {
        names.push(text(REFERENCE));
        return;
    }
    fields(definition);
    if let Some(variants) = definition.get_mut("anyOf").and_then(Value::as_array_mut) {
        variants.iter_mut().for_each(fields);
        variants.insert(0, text(CALL));
        return;
    }
    // A pattern says something about text only, and `properties` about maps.
    let kinds = kinds(definition);
    if kinds.iter().any(|kind| kind == "object") {
        definition["type"] = kinds.into_iter().chain(["string".to_owned()]).collect();
        definition["pattern"] = CALL.into();
    }
}

fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn kinds(schema: &Value) -> Vec<String> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.clone()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The same for the fields of a map that takes no others.
fn fields(map: &mut Value) {
    let closed = map.get("additionalProperties") == Some(&Value::Bool(false));
    for (_, field) in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        refer(field);
    }
    if closed {
        map["properties"]["_include_"] = include();
        map["patternProperties"] = json!({ "^~": { "type": "null" } });
    }
}

/// Lets a number, a truth value or a list be written as a reference.
pub(super) fn refer(field: &mut Value) {
    if let Some(item) = field.get_mut("items") {
        refer(item);
    }
    field
        .get_mut("prefixItems")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .for_each(refer);
    let kinds = kinds(field);
    if kinds.is_empty() || kinds.iter().any(|kind| kind == "string" || kind == "object") {
        return;
    }
    field["type"] = kinds.into_iter().chain(["string".to_owned()]).collect();
    field["pattern"] = REFERENCE.into();
}

/// The files that a map is laid over.
pub(super) fn include() -> Value {
    json!({ "type": ["string", "array"], "items": { "type": "string" }, "description": "Files to lay under this map: `base.yaml`, `more.yaml:section`." })
}

/// Rewrites serde's external tags `{"Name": {...}}` to `{_target_: Name, ...}`, as files spell them. The
/// tag may be left out, which overrides fields of what the recipe chose; they may then fit several types.
fn targets(definitions: &mut Value) {
    let snapshot = definitions.clone();
    for definition in definitions.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        let Some(variants) = definition.get("oneOf").and_then(Value::as_array) else {
            continue;
        };
        let flat: Option<Vec<_>> = variants.iter().map(|variant| flat_variant(variant, &snapshot)).collect();
        if let (Some(flat), Some(definition)) = (flat, definition.as_object_mut()) {
            definition.remove("oneOf");
            definition.insert("anyOf".into(), flat.into());
        }
    }
}

fn flat_variant(variant: &Value, definitions: &Value) -> Option<Value> {
    let (name, inner) = variant.get("properties")?.as_object().filter(|map| map.len() == 1)?.iter().next()?;
    // A struct of one field refers to that field's type.
    let mut inner = inner;
    while let Some(reference) = inner.get("$ref").and_then(Value::as_str) {
        inner = definitions.get(reference.rsplit('/').next()?)?;
    }
    let mut fields = inner.get("properties").cloned().unwrap_or_else(|| json!({}));
    if name == "Custom" {
        // An own type: its name is a path, and further arguments are its own affair.
        fields
            .as_object_mut()?
            .insert("_target_".into(), json!({ "type": "string", "pattern": "::" }));
        return Some(json!({ "type": "object", "required": ["_target_"], "properties": fields }));
    }
    fields.as_object_mut()?.insert("_target_".into(), json!({ "const": name }));
    let mut flat = json!({ "type": "object", "additionalProperties": false, "properties": fields });
    if let Some(description) = variant.get("description").or_else(|| inner.get("description")) {
        flat.as_object_mut()?.insert("description".into(), description.clone());
    }
    Some(flat)
}
