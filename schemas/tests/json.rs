//! The JSON schema files are those of the types, and the recipe files fit them.

use std::{fs, path::Path};

use neva_schemas::SCHEMAS;
use serde_json::Value;

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// `UPDATE=1 cargo test -p neva-schemas` writes the files anew.
#[test]
fn schema_files_are_current() {
    for entry in SCHEMAS {
        let path = folder("json").join(entry.file);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, entry.text()).expect("write a schema");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == entry.text(),
            "{} is stale: run `UPDATE=1 cargo test --release -p neva-schemas`",
            path.display()
        );
    }
}

fn recipe_errors(recipe: &Value) -> Vec<String> {
    let schema = (SCHEMAS[0].schema)();
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    validator
        .iter_errors(recipe)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// The file, and the file with its commented section put in force.
#[test]
fn recipe_files_fit_the_schema() {
    let mut seen = 0;
    for file in fs::read_dir(folder("../recipes"))
        .expect("the recipes")
        .map(|file| file.expect("a file").path())
    {
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let text = fs::read_to_string(&file).expect("text");
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(
            first,
            "# yaml-language-server: $schema=../schemas/json/recipe.schema.json",
            "{}",
            file.display()
        );
        assert_eq!(recipe_errors(&yaml(&text)), [""; 0], "{}", file.display());

        let (above, example) = text.split_once("# finetune:").expect("an example of overrides");
        let example = format!("{above}finetune:{}", example.replace("\n# ", "\n"));
        let example = yaml(&example);
        assert!(example["finetune"]["optim"]["lr"].is_number(), "{}", file.display());
        assert_eq!(recipe_errors(&example), [""; 0], "{}, example", file.display());
    }
    assert!(seen >= 6, "{seen} recipe files");
}

#[test]
fn a_section_may_be_empty_and_a_target_left_out() {
    for text in [
        "{_factory_: neva_tiny, finetune: null}",
        "{_factory_: neva_tiny, finetune: {peft: null, data: {seq_length: 64}}}",
    ] {
        assert_eq!(recipe_errors(&yaml(text)), [""; 0], "{text}");
    }
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let cases = [
        ("{name: x}", "\"_factory_\" is a required property"),
        ("{_factory_: neva_tiny, nane: x}", "nane"),
        ("{_factory_: neva_tiny, num_nodes: two}", "/num_nodes"),
        ("{_factory_: neva_tiny, peft_scheme: dora}", "/peft_scheme"),
        ("{_factory_: neva_tiny, finetune: {trainer: {max_step: 1}}}", "max_step"),
        (
            "{_factory_: neva_tiny, finetune: {optim: {_target_: optim.SGD}}}",
            "/finetune/optim",
        ),
        (
            "{_factory_: neva_tiny, finetune: {data: {_target_: vlm.MockDataModule, paths: a.json}}}",
            "/finetune/data",
        ),
    ];
    for (text, expect) in cases {
        let errors = recipe_errors(&yaml(text)).join("\n");
        assert!(errors.contains(expect), "{text}: {errors:?}");
    }
}
