//! JSON schemas of what a user writes, made from the types.

mod spelling;

use self::spelling::{definitions, refer};
use crate::executor::Executor;
use crate::experiment::Experiment;
use crate::finetune::Finetune;
use crate::recipe::RecipeArgs;
use crate::script::Script;
use crate::sweep::SweepOrder;
use crate::task::Dependency;
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
        name: "experiment",
        summary: "tasks, and what must have ended before each",
        schema: experiment,
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
    let mut schema = recipe_object(&mut generator);
    schema["properties"]["_env_"] = json!({
        "type": "array",
        "items": { "type": "string" },
        "description": "Variables of the environment that `${env:NAME}` may read.",
    });
    complete("neva-run recipe", schema, &mut generator)
}

/// An experiment file: tasks by name, each a recipe or a script.
fn experiment() -> Value {
    let mut generator = SchemaGenerator::default();
    let recipe = recipe_object(&mut generator);
    let script = tagged("run.Script", own_properties::<Script>(&mut generator));
    let sets = json!({ "type": "array", "items": { "type": "string" }, "description": "Overrides, as `--set` takes them." });
    let elsewhere = object(&[
        (
            "recipe",
            json!({ "type": "string", "description": "Recipe file, or the name of a recipe." }),
        ),
        ("set", sets),
    ]);
    let mut sweep = object(&[]);
    sweep["properties"] = own_properties::<SweepOrder>(&mut generator).into();
    sweep["properties"]["over"] = json!({
        "type": "object",
        "minProperties": 1,
        "additionalProperties": { "type": "array", "minItems": 1 },
        "description": "Values to try, by the dotted path of what they are values of.",
    });
    sweep["required"] = json!(["over"]);
    let executor = generator.subschema_for::<Executor>().to_value();
    let edge = generator.subschema_for::<Dependency>().to_value();
    let mut task = object(&[
        ("task", json!({ "anyOf": [recipe, required(elsewhere, "recipe"), script] })),
        ("executor", json!({ "anyOf": [{ "type": "string" }, executor, { "type": "null" }] })),
        ("depends_on", json!({ "type": "array", "items": edge })),
        ("sweep", sweep),
    ]);
    task["required"] = json!(["task"]);
    let mut schema = object(&[]);
    schema["properties"] = own_properties::<Experiment>(&mut generator).into();
    schema["properties"]["tasks"] =
        json!({ "type": "object", "minProperties": 1, "additionalProperties": task, "description": "Tasks by name." });
    schema["required"] = json!(["tasks"]);
    complete("neva-run experiment", schema, &mut generator)
}

/// An executor file: one place to run.
fn executor() -> Value {
    let mut generator = SchemaGenerator::default();
    let schema = generator.subschema_for::<Executor>().to_value();
    complete("neva-run executor", schema, &mut generator)
}

/// A workspace file: executors, and a part of a recipe file that is laid under all of them.
fn workspace() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut schema = object(&[]);
    schema["properties"] = own_properties::<Workspace>(&mut generator).into();
    let mut defaults = object(&[]);
    let mut properties = recipe_properties(&mut generator);
    // It stands at the top of the file.
    properties.remove("dir");
    defaults["type"] = json!(["object", "null"]);
    defaults["properties"] = properties.into();
    defaults["description"] = "What every recipe file is laid over: arguments of recipes, and parts of their graph.".into();
    schema["properties"]["defaults"] = defaults;
    complete("neva-run workspace", schema, &mut generator)
}

/// The document: `schema`, with the types that it refers to.
fn complete(title: &str, schema: Value, generator: &mut SchemaGenerator) -> Value {
    let mut document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title });
    for (key, value) in schema.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    document["$defs"] = definitions(generator);
    document
}

/// A map that takes `properties` and no others.
fn object(properties: &[(&str, Value)]) -> Value {
    let properties: Map<_, _> = properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn required(mut object: Value, name: &str) -> Value {
    object["required"] = json!([name]);
    object
}

/// A map that says what it describes.
fn tagged(name: &str, properties: Map<String, Value>) -> Value {
    let mut map = object(&[("_target_", json!({ "const": name }))]);
    properties.into_iter().for_each(|(name, value)| map["properties"][name] = value);
    required(map, "_target_")
}

/// A recipe, as a file and a task of an experiment hold it.
fn recipe_object(generator: &mut SchemaGenerator) -> Value {
    let mut recipe = object(&[("_factory_", json!({ "type": "string", "description": "Name of the recipe." }))]);
    for (name, mut value) in recipe_properties(generator) {
        refer(&mut value);
        recipe["properties"][name] = value;
    }
    recipe["properties"]["_include_"] = spelling::include();
    required(recipe, "_factory_")
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
