//! JSON schemas of what a user writes, made from the types.

use crate::executor::Executor;
use crate::finetune::Finetune;
use crate::recipe::RecipeArgs;
use crate::workspace::Workspace;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The schema of one kind of file, `schemas/json/<name>.schema.json`.
pub struct SchemaEntry {
    /// The kind of file.
    pub name: &'static str,
    /// What such a file says, in one line.
    pub summary: &'static str,
    /// Makes the schema.
    pub schema: fn() -> Value,
}

impl SchemaEntry {
    /// Name of the schema's file.
    pub fn file(&self) -> String {
        format!("{}.schema.json", self.name)
    }

    /// Text of the schema's file.
    pub fn text(&self) -> String {
        format!("{:#}\n", (self.schema)())
    }
}

/// Every schema, in order.
pub const SCHEMAS: &[SchemaEntry] = &[
    SchemaEntry {
        name: "recipe",
        summary: "what is trained: a recipe, its arguments, and overrides of its graph",
        schema: recipe,
    },
    SchemaEntry {
        name: "executor",
        summary: "where it runs: what `--executor FILE` takes",
        schema: executor,
    },
    SchemaEntry {
        name: "workspace",
        summary: "what a team's runs have in common: `neva.yaml`",
        schema: workspace,
    },
];

/// A recipe file: the recipe's name and arguments on top, overrides of its graph under `finetune`.
fn recipe() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut properties = recipe_properties(&mut generator);
    properties.insert(
        "_factory_".into(),
        json!({ "type": "string", "description": "Name of the recipe." }),
    );
    let mut schema = document("neva-run recipe", properties, definitions(&mut generator));
    schema["required"] = json!(["_factory_"]);
    schema
}

/// An executor file: one place to run.
fn executor() -> Value {
    let mut generator = SchemaGenerator::default();
    let executor = generator.subschema_for::<Executor>().to_value();
    json!({
        "$schema": DIALECT,
        "title": "neva-run executor",
        "$ref": executor["$ref"],
        "$defs": definitions(&mut generator),
    })
}

/// A workspace file: executors, and a part of a recipe file that is laid under all of them.
fn workspace() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut properties = own_properties::<Workspace>(&mut generator);
    let mut defaults = recipe_properties(&mut generator);
    // It stands at the top of the file.
    defaults.remove("dir");
    let description = "What every recipe file is laid over: arguments of recipes, and parts of their graph.";
    properties.insert(
        "defaults".into(),
        json!({ "type": ["object", "null"], "description": description, "additionalProperties": false, "properties": defaults }),
    );
    document("neva-run workspace", properties, definitions(&mut generator))
}

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

fn document(title: &str, properties: Map<String, Value>, definitions: Value) -> Value {
    json!({
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions,
    })
}

/// What may stand at the top of a recipe file beside the recipe's name.
fn recipe_properties(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut properties = own_properties::<RecipeArgs>(generator);
    properties.insert("finetune".into(), generator.subschema_for::<Finetune>().to_value());
    properties
}

fn own_properties<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let schema = T::json_schema(generator);
    schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The types that were met, as files spell them.
fn definitions(generator: &mut SchemaGenerator) -> Value {
    let mut definitions = Value::Object(generator.take_definitions(true));
    partial(&mut definitions);
    if let Some(finetune) = definitions.get_mut("Finetune").and_then(Value::as_object_mut) {
        // A section whose lines are all comments is null.
        finetune.insert("type".into(), json!(["object", "null"]));
    }
    targets(&mut definitions);
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
