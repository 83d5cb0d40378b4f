//! Converts serde's view of the types to the syntax of files.

use schemars::SchemaGenerator;
use serde_json::{Value, json};

/// Types that are not part of a recipe, so their values are neither references nor deletable.
const NOT_IN_RECIPES: &[&str] = &[
    "ContainerRuntime",
    "Dependency",
    "Executor",
    "GitArchivePackager",
    "HybridPackager",
    "KubernetesExecutor",
    "KubernetesKind",
    "KubernetesVolume",
    "Launcher",
    "LocalExecutor",
    "LocalTunnel",
    "NfsVolume",
    "NoPackager",
    "OutsideCommit",
    "Packager",
    "PatternPackager",
    "SSHTunnel",
    "SlurmExecutor",
    "SlurmJobDetails",
    "SlurmParameter",
    "SshProgram",
    "SweepMode",
    "TextOrList",
    "Torchrun",
    "Tunnel",
    "When",
];

/// Pattern of a reference, which replaces a value of any type.
const REFERENCE: &str = r"\$\{";
/// Pattern of text that replaces a map: a reference, a file, a name or a call.
const CALL: &str = r"\$\{|^@|^[A-Za-z_][\w.:]*(\(.*\))?$";

/// Returns the definitions of all generated types, in the syntax of files.
pub(super) fn definitions(generator: &mut SchemaGenerator) -> Value {
    let mut definitions = Value::Object(generator.take_definitions(true));
    partial(&mut definitions);
    if let Some(finetune) = definitions.get_mut("Finetune").and_then(Value::as_object_mut) {
        // A section with only comments is null.
        finetune.insert("type".into(), json!(["object", "null"]));
    }
    targets(&mut definitions);
    for (name, definition) in definitions.as_object_mut().into_iter().flatten() {
        if !NOT_IN_RECIPES.contains(&name.as_str()) {
            references(definition);
        }
    }
    // No recipe fills in an executor, so its type must be written.
    let executors = definitions.pointer_mut("/Executor/anyOf").and_then(Value::as_array_mut);
    for executor in executors.into_iter().flatten() {
        executor["required"] = json!(["_target_"]);
    }
    definitions
}

/// Makes all fields optional: a file overrides parts of a graph that the recipe fills in.
fn partial(definitions: &mut Value) {
    for definition in definitions.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Some(object) = definition.as_object_mut() {
            object.remove("required");
        }
    }
}

/// Allows references, files and calls instead of a definition, and deletion of its fields.
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
    // A pattern applies to text only, and `properties` to maps only.
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

/// Allows references and deletions in the fields of a closed map.
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

/// Allows a reference instead of a number, a boolean or a list.
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

/// Returns the schema of `_include_`.
pub(super) fn include() -> Value {
    json!({
        "type": ["string", "array"],
        "items": { "type": "string" },
        "description": "Files that this map overrides: `base.yaml`, `more.yaml:section`.",
    })
}

/// Rewrites serde's external tags `{"Name": {...}}` to `{_target_: Name, ...}`, the syntax of files. The tag is
/// optional when fields of the recipe's own choice are overridden; the fields may then match several types.
fn targets(definitions: &mut Value) {
    let snapshot = definitions.clone();
    for definition in definitions.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        let Some(variants) = definition.get("oneOf").and_then(Value::as_array) else {
            continue;
        };
        // A plain name is kept, unless the type has nothing else.
        let named = |variant: &&Value| variant.get("const").is_some();
        if variants.iter().all(|variant| named(&variant)) {
            continue;
        }
        let flat = variants.iter().map(|variant| match named(&variant) {
            true => Some(variant.clone()),
            false => flat_variant(variant, &snapshot),
        });
        let flat: Option<Vec<_>> = flat.collect();
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
        // A custom type: its name is a path, and its other arguments are not checked here.
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
