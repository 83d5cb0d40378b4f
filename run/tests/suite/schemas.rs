//! An editor with the schema and the program report the same problems of a file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use neva_run::{config, load, resolve};
use neva_schemas::SCHEMAS;
use serde_json::{Map, Value, json};

use crate::{process::Program, recipe_file};

/// Minimum number of mutated files that are compared.
const COMPARED: usize = 200;

/// An experiment with each kind of task and edge.
const EXPERIMENT: &str = "
name: study
max_parallel: 4
tasks:
  prepare:
    task: {_target_: run.Script, inline: 'echo ready', env: {MESSAGE: two words}, args: [a, b]}
  train:
    task: {_factory_: neva_tiny, num_gpus_per_node: 2, finetune: {trainer: {max_steps: 3}, optim: {lr: 1.0e-3}}}
    executor: {_target_: run.LocalExecutor, retries: 2, env_vars: {A: b}}
    depends_on: [prepare]
    sweep: {over: {finetune.trainer.max_steps: [3, 4]}, mode: grid}
  plot:
    task: {_target_: run.Script, inline: 'true', entrypoint: bash -eu}
    depends_on: [{task: train, when: afterany}]
groups: {first: [prepare]}
sequential: false
";

/// Returns all problems that the schema of `kind` finds, as text.
fn by_schema(kind: &str, file: &Value) -> Vec<String> {
    let entry = SCHEMAS.iter().find(|entry| entry.name == kind).unwrap();
    let validator = jsonschema::validator_for(&(entry.schema)()).unwrap();
    validator
        .iter_errors(file)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Returns the program's problems of each of `files`, all of one kind, as (kind, path).
fn by_program(kind: &str, files: &[&Value]) -> Vec<Vec<(String, String)>> {
    let dir = tempfile::tempdir().unwrap();
    let names = files.iter().enumerate().map(|(number, file)| {
        let path = dir.path().join(format!("{number:03}.yaml"));
        fs::write(&path, file.to_string()).unwrap();
        path.display().to_string()
    });
    let names: Vec<_> = names.collect();
    let flags = ["validate", "--no-workspace", "--output", "json", "--kind", kind];
    let arguments: Vec<_> = flags.into_iter().chain(names.iter().map(String::as_str)).collect();
    let (_, stdout, stderr, _dir) = Program::new("", &arguments).run();
    let verdicts: Vec<Value> = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let problems = |verdict: &Value| {
        let problems = verdict["problems"].as_array().unwrap();
        problems
            .iter()
            .map(|problem| (text(&problem["kind"]), text(&problem["path"])))
            .collect()
    };
    verdicts.iter().map(problems).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Collects every YAML file below `folder`.
fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The metadata of a dataset are not files of this program.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !is_hidden {
            yaml_files(&path, found);
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

/// Returns the shipped files, with the kind in their first line.
fn shipped() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for folder in ["recipes", "examples"] {
        yaml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder), &mut files);
    }
    files.sort();
    // Calls a factory of another launcher.
    files.retain(|path| !path.ends_with("own/partial.yaml"));
    // Files of megatron-energon.
    files.retain(|path| path.components().all(|part| part.as_os_str() != ".nv-meta"));
    let kind = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let schema = first
            .strip_prefix("# yaml-language-server: $schema=")
            .unwrap_or_else(|| panic!("{} names no schema", path.display()));
        assert!(
            path.parent().unwrap().join(schema).is_file(),
            "{}: {schema} is not there",
            path.display()
        );
        let name = schema.rsplit('/').next().unwrap().trim_end_matches(".schema.json").to_owned();
        (path, name)
    };
    files.into_iter().map(kind).collect()
}

#[test]
fn each_file_names_its_schema_and_is_valid_for_both() {
    let files = shipped();
    assert!(files.len() >= 9, "{files:?}");
    for (path, kind) in files {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(by_schema(&kind, &yaml(&text)), [""; 0], "{}", path.display());
        let name = path.display().to_string();
        let (code, stdout, stderr, _dir) = Program::new("", &["validate", "--no-workspace", &name]).run();
        assert_eq!((code, stdout.trim_end()), (0, format!("ok  {name} ({kind})").as_str()), "{stderr}");
    }
}

/// References, files, calls and deletions replace a value: an editor must accept them.
#[test]
fn references_files_calls_and_deletions_are_valid_for_both() {
    let finetunes = [
        "optim: {lr: '${finetune.optim.eps}', betas: ['${finetune.optim.lr}', 0.9]}",
        "trainer: {max_steps: '${num_nodes}', nan_policy: '${env:NEVA_TEST_NAN:skip}'}",
        "optim: optim.Lion(lr=1e-5)",
        "'~peft': null",
        "log: {ckpt: '${finetune.log.ckpt}'}",
        "trainer: {strategy: '@strategy.yaml'}",
    ];
    let text = |finetune: &str| format!("{{_factory_: neva_tiny, _env_: [NEVA_TEST_NAN], finetune: {{{finetune}}}}}");
    let files: Vec<_> = finetunes.iter().map(|finetune| yaml(&text(finetune))).collect();
    for file in &files {
        assert_eq!(by_schema("recipe", file), [""; 0], "{file}");
    }
    // The problems of the last two do not concern their form.
    let ours = by_program("recipe", &files.iter().collect::<Vec<_>>());
    let kinds = ours
        .iter()
        .map(|problems| problems.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [vec![], vec![], vec![], vec![], vec!["invalid"], vec!["read"]]
    );
}

/// Returns the files to mutate: the shipped ones, and two runs with every value given.
fn bases() -> Vec<(String, Value)> {
    let mut bases = vec![("experiment".to_owned(), yaml(EXPERIMENT))];
    for recipe in ["llava15_7b.yaml", "neva_tiny.yaml"] {
        let run = resolve(load(&recipe_file(recipe)).unwrap(), &[""; 0]).unwrap().run;
        let node = config::to_node(&run, config::Origin::recipe(recipe)).unwrap();
        bases.push(("recipe".to_owned(), config::to_json(&node)));
    }
    for (path, kind) in shipped() {
        bases.push((kind, yaml(&fs::read_to_string(path).unwrap())));
    }
    bases
}

/// Returns every mutation of one value of `file`: a missing or misspelt key, a value of another type, a negative number,
/// an unknown name.
///
/// Text is not replaced by a number: where text is expected, the program accepts `5` as typed, but an editor does not.
fn mutations(file: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut pointers = Vec::new();
    collect(file, String::new(), &mut pointers);
    for pointer in pointers {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut add = |what: &str, change: &dyn Fn(&mut Value)| {
            let mut changed = file.clone();
            change(changed.pointer_mut(parent).unwrap());
            found.push((format!("{what} {pointer}"), changed));
        };
        let replace = |new: Value| {
            move |parent: &mut Value| match parent {
                Value::Array(items) => items[key.parse::<usize>().unwrap()] = new.clone(),
                map => map[key] = new.clone(),
            }
        };
        let value = file.pointer(&pointer).unwrap();
        if file.pointer(parent).unwrap().is_object() {
            add("drop", &|map| {
                map.as_object_mut().unwrap().shift_remove(key);
            });
            add("rename", &|map| {
                let map = map.as_object_mut().unwrap();
                *map = map
                    .iter()
                    .map(|(name, value)| (if name == key { format!("{name}_x") } else { name.clone() }, value.clone()))
                    .collect::<Map<_, _>>();
            });
        }
        let other_kind = match value {
            Value::Number(_) => json!("fast"),
            Value::Bool(_) => json!("perhaps"),
            Value::String(_) => json!({ "x": { "y": 1 } }),
            Value::Array(_) | Value::Object(_) => json!(5),
            Value::Null => json!({ "x": 1 }),
        };
        add("retype", &replace(other_kind));
        match value {
            Value::Number(_) => add("negate", &replace(json!(-1))),
            Value::String(_) => add("garble", &replace(json!("no such name!"))),
            _ => {}
        }
    }
    found
}

/// Collects the JSON pointers of all values below `value`. Keys hold no `/`.
fn collect(value: &Value, at: String, found: &mut Vec<String>) {
    let children: Vec<_> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => return,
    };
    for (key, value) in children {
        let pointer = format!("{at}/{key}");
        found.push(pointer.clone());
        collect(value, pointer, found);
    }
}

/// Returns whether only the program can find a problem: a schema sees one value at a time, and no recipe.
fn beyond_schemas(place: &str, kind: &str, path: &str) -> bool {
    match kind {
        // Paths of a sweep are text.
        _ if place.contains("/sweep/over") => true,
        // Rules of a value's content, and rules across values.
        "invalid" => true,
        // Recipes and executors by name, and values that a recipe would give.
        "unknown_name" => path.ends_with("_factory_") || path.ends_with("executor"),
        "missing_field" | "missing_target" => true,
        // A section without a type has the type of its recipe.
        "unknown_field" => place.starts_with("drop ") && place.ends_with("/_target_"),
        _ => false,
    }
}

#[test]
fn both_agree_on_mutated_files() {
    let mut cases: Vec<(String, String, Value)> = Vec::new();
    for (kind, base) in bases() {
        let mutated = mutations(&base).into_iter();
        cases.extend(mutated.map(|(what, file)| (kind.clone(), what, file)));
    }
    // Sampled evenly, twice as many as needed, because some are beyond schemas.
    let step = (cases.len() / (COMPARED * 3 / 2)).max(1);
    let chosen: Vec<_> = cases.iter().step_by(step).collect();
    let mut by_kind: BTreeMap<&str, Vec<&(String, String, Value)>> = BTreeMap::new();
    for case in chosen {
        by_kind.entry(&case.0).or_default().push(case);
    }
    let (mut refused, mut accepted, mut beyond) = (0, 0, 0);
    let mut apart = Vec::new();
    for (kind, cases) in by_kind {
        let files: Vec<_> = cases.iter().map(|case| &case.2).collect();
        for ((_, what, file), ours) in cases.into_iter().zip(by_program(kind, &files)) {
            let schema = by_schema(kind, file);
            match (schema.is_empty(), ours.is_empty()) {
                (false, false) => refused += 1,
                (true, true) => accepted += 1,
                (true, false) if ours.iter().all(|(kind, path)| beyond_schemas(what, kind, path)) => beyond += 1,
                _ => apart.push(format!("{kind}, {what}: the schema says {schema:?}, the program {ours:?}")),
            }
        }
    }
    assert!(apart.is_empty(), "{}", apart.join("\n"));
    assert!(
        refused + accepted >= COMPARED,
        "{refused} refused, {accepted} accepted, {beyond} beyond schemas"
    );
    assert!(
        accepted >= COMPARED / 10 && refused >= COMPARED / 4,
        "{refused} refused, {accepted} accepted"
    );
}
