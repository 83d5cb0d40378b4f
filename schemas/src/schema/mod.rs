//! JSON schemas of user files, generated from the types.

mod spelling;

use self::spelling::{definitions, refer};
use crate::executor::ExecutorConfig;
use crate::experiment::ExperimentConfig;
use crate::finetune::Finetune;
use crate::recipe::RecipeArgs;
use crate::script::Script;
use crate::sweep::SweepOrder;
use crate::task::Dependency;
use crate::workspace::WorkspaceConfig;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The schema of one kind of file, `schemas/json/<name>.schema.json`.
pub struct SchemaEntry {
    /// The kind of file.
    pub name: &'static str,
    /// Contents of such a file, in one line.
    pub summary: &'static str,
    /// Generates the schema.
    pub schema: fn() -> Value,
}

impl SchemaEntry {
    /// Returns the name of the schema's file.
    pub fn file(&self) -> String {
        format!("{}.schema.json", self.name)
    }

    /// Returns the text of the schema's file.
    pub fn text(&self) -> String {
        format!("{:#}\n", (self.schema)())
    }
}

/// All schemas, in order.
pub const SCHEMAS: &[SchemaEntry] = &[
    SchemaEntry {
        name: "recipe",
        summary: "a recipe, its arguments, and overrides of its graph",
        schema: recipe,
    },
    SchemaEntry {
        name: "experiment",
        summary: "tasks and their dependencies",
        schema: experiment,
    },
    SchemaEntry {
        name: "executor",
        summary: "an executor, for `--executor FILE`",
        schema: executor,
    },
    SchemaEntry {
        name: "workspace",
        summary: "shared settings of a team's runs: `neva.yaml`",
        schema: workspace,
    },
];

/// Returns the schema of a recipe file: the recipe's name and arguments, and overrides of its graph in `finetune`.
fn recipe() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut schema = recipe_object(&mut generator);
    schema["properties"]["_env_"] = json!({
        "type": "array",
        "items": { "type": "string" },
        "description": "Environment variables that `${env:NAME}` may read.",
    });
    complete("neva-run recipe", schema, &mut generator)
}

/// Returns the schema of an experiment file: tasks by name, each a recipe or a script.
fn experiment() -> Value {
    let mut generator = SchemaGenerator::default();
    let recipe = recipe_object(&mut generator);
    let script = tagged("run.Script", own_properties::<Script>(&mut generator));
    let sets = json!({ "type": "array", "items": { "type": "string" }, "description": "Overrides, as for `--set`." });
    let recipe_reference = object(&[
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
        "description": "Values to try, by dotted path.",
    });
    sweep["required"] = json!(["over"]);
    let executor = generator.subschema_for::<ExecutorConfig>().to_value();
    let dependency = generator.subschema_for::<Dependency>().to_value();
    let mut task = object(&[
        ("task", json!({ "anyOf": [recipe, required(recipe_reference, "recipe"), script] })),
        ("executor", json!({ "anyOf": [{ "type": "string" }, executor, { "type": "null" }] })),
        ("depends_on", json!({ "type": "array", "items": dependency })),
        ("sweep", sweep),
    ]);
    task["required"] = json!(["task"]);
    let mut schema = object(&[]);
    schema["properties"] = own_properties::<ExperimentConfig>(&mut generator).into();
    schema["properties"]["tasks"] =
        json!({ "type": "object", "minProperties": 1, "additionalProperties": task, "description": "Tasks by name." });
    schema["required"] = json!(["tasks"]);
    complete("neva-run experiment", schema, &mut generator)
}

/// Returns the schema of an executor file.
fn executor() -> Value {
    let mut generator = SchemaGenerator::default();
    let schema = generator.subschema_for::<ExecutorConfig>().to_value();
    complete("neva-run executor", schema, &mut generator)
}

/// Returns the schema of a workspace file: executors, and defaults of all recipe files.
fn workspace() -> Value {
    let mut generator = SchemaGenerator::default();
    let mut schema = object(&[]);
    schema["properties"] = own_properties::<WorkspaceConfig>(&mut generator).into();
    let mut defaults = object(&[]);
    let mut properties = recipe_properties(&mut generator);
    // It is a top-level field of the file.
    properties.remove("dir");
    defaults["type"] = json!(["object", "null"]);
    defaults["properties"] = properties.into();
    defaults["description"] = "Defaults of every recipe file: arguments of recipes, and parts of their graph.".into();
    schema["properties"]["defaults"] = defaults;
    complete("neva-run workspace", schema, &mut generator)
}

/// Returns the document: `schema` and the definitions of its types.
fn complete(title: &str, schema: Value, generator: &mut SchemaGenerator) -> Value {
    let mut document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title });
    for (key, value) in schema.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    document["$defs"] = definitions(generator);
    document
}

/// Returns the schema of a map with `properties` and no others.
fn object(properties: &[(&str, Value)]) -> Value {
    let properties: Map<_, _> = properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn required(mut object: Value, name: &str) -> Value {
    object["required"] = json!([name]);
    object
}

/// Returns the schema of a map with a `_target_`.
fn tagged(name: &str, properties: Map<String, Value>) -> Value {
    let mut map = object(&[("_target_", json!({ "const": name }))]);
    properties.into_iter().for_each(|(name, value)| map["properties"][name] = value);
    required(map, "_target_")
}

/// Returns the schema of a recipe, in a file or in a task of an experiment.
fn recipe_object(generator: &mut SchemaGenerator) -> Value {
    let mut recipe = object(&[("_factory_", json!({ "type": "string", "description": "Name of the recipe." }))]);
    for (name, mut value) in recipe_properties(generator) {
        refer(&mut value);
        recipe["properties"][name] = value;
    }
    recipe["properties"]["_include_"] = spelling::include();
    required(recipe, "_factory_")
}

/// Returns the top-level properties of a recipe file, except the recipe's name.
fn recipe_properties(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut properties = own_properties::<RecipeArgs>(generator);
    properties.insert("finetune".into(), generator.subschema_for::<Finetune>().to_value());
    properties
}

fn own_properties<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let schema = T::json_schema(generator);
    schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}
