//! JSON schemas of what a user writes, made from the types.

use crate::finetune::Finetune;
use crate::recipe::RecipeArgs;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// A schema file under `schemas/json/`.
pub struct SchemaEntry {
    /// File name.
    pub file: &'static str,
    /// Makes the file's content.
    pub schema: fn() -> Value,
}

impl SchemaEntry {
    /// The file's text.
    pub fn text(&self) -> String {
        format!("{:#}\n", (self.schema)())
    }
}

/// Every schema file, in order.
pub const SCHEMAS: &[SchemaEntry] = &[SchemaEntry {
    file: "recipe.schema.json",
    schema: recipe,
}];

/// A recipe file: the recipe's name and arguments on top, overrides of its graph under `finetune`.
fn recipe() -> Value {
    let mut generator = SchemaGenerator::default();
    let args = RecipeArgs::json_schema(&mut generator);
    let finetune = generator.subschema_for::<Finetune>();
    let mut properties = args.get("properties").cloned().unwrap_or_else(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(
            "_factory_".into(),
            json!({ "type": "string", "description": "Name of the recipe." }),
        );
        properties.insert("finetune".into(), finetune.to_value());
    }
    let mut definitions = Value::Object(generator.take_definitions(true));
    partial(&mut definitions);
    if let Some(finetune) = definitions.get_mut("Finetune").and_then(Value::as_object_mut) {
        // A section whose lines are all comments is null.
        finetune.insert("type".into(), json!(["object", "null"]));
    }
    targets(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neva-run recipe",
        "type": "object",
        "required": ["_factory_"],
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions,
    })
}

/// A file overrides parts of a graph that the recipe fills, so no field is required.
fn partial(definitions: &mut Value) {
    for definition in definitions.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Some(object) = definition.as_object_mut() {
            object.remove("required");
        }
    }
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
