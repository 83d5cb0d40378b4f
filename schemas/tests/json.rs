//! The JSON schema files match the types, and the recipe files match the schemas.

use std::{fs, path::Path};

use neva_schemas::SCHEMAS;
use serde_json::Value;

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// `UPDATE=1 cargo test --release --workspace --test json` updates the files.
#[test]
fn schema_files_are_current() {
    for entry in SCHEMAS {
        let path = folder("json").join(entry.file());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, entry.text()).expect("write a schema");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == entry.text(),
            "{} is stale: run `UPDATE=1 cargo test --release --workspace --test json`",
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

/// Checks each file as it is and with its commented section enabled.
#[test]
fn recipe_files_match_the_schema() {
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
fn sections_may_be_empty_and_targets_omitted() {
    for text in [
        "{_factory_: neva_tiny, finetune: null}",
        "{_factory_: neva_tiny, finetune: {peft: null, data: {seq_length: 64}}}",
    ] {
        assert_eq!(recipe_errors(&yaml(text)), [""; 0], "{text}");
    }
}

#[test]
fn the_schema_accepts_valid_recipes() {
    for finetune in [
        "trainer: {max_steps: null, max_epochs: 2, max_time: 00:12:00:00, val_check_interval: null, nan_policy: skip}",
        "trainer: {max_time: 1h30m, loss_spike_threshold: null, limit_val_batches: 3}",
        "trainer: {callbacks: []}",
        "trainer: {callbacks: [{_target_: nl.EarlyStopping, patience: 2, mode: max}]}",
        "trainer: {callbacks: [{_target_: 'my_crate::Heartbeat', every: 5, to: {hosts: [a, b]}}]}",
        "optim: {_target_: optim.SGD, momentum: 0.9, nesterov: true}",
        "optim: {_target_: optim.Lion, betas: [0.9, 0.99], mm_projector_lr: 1.0e-3}",
        "optim: {param_groups: [{params: ['*lora_B*'], lr: 1.0e-3}]}",
        "optim: {lr_scheduler: {_target_: WSD, decay_steps: 10, decay_type: 1-sqrt, warmup_ratio: 0.03}}",
        "data: {_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: 0.05, add_bos: null}",
        "data: {_target_: vlm.NevaPreloadedDataModule, paths: [a.json], shuffle: false}",
        "data: {_target_: EnergonMultiModalDataModule, path: a, sample_loaders: {a: {sample_type: TextSample, field_map: {text: txt}}}}",
        "data: {_target_: EnergonMultiModalDataModule, path: a, task_encoder: {_target_: MultiModalTaskEncoder, packed_sequence: true}}",
        "data: {_target_: 'my_crate::MyData', seq_length: 64, shuffle: false, shards: {from: [a, b]}}",
        "log: {tensorboard: false, mlflow: {tracking_uri: 'http://mlflow:5000', tags: {team: vlm}}}",
        "log: {ckpt: {save_top_k: -1, train_time_interval: 00:10:00, monitor: grad_norm}}",
        "resume: {adapter_path: runs/a, restore_config: {load_optim_state: true}}",
    ] {
        let text = format!("{{_factory_: neva_tiny, nemo_compat: true, finetune: {{{finetune}}}}}");
        assert_eq!(recipe_errors(&yaml(&text)), [""; 0], "{text}");
    }
}

#[test]
fn the_schema_refuses_invalid_recipes() {
    let cases = [
        ("{name: x}", "\"_factory_\" is a required property"),
        ("{_factory_: neva_tiny, nane: x}", "nane"),
        ("{_factory_: neva_tiny, num_nodes: two}", "/num_nodes"),
        ("{_factory_: neva_tiny, peft_scheme: dora}", "/peft_scheme"),
        ("{_factory_: neva_tiny, finetune: {trainer: {max_step: 1}}}", "max_step"),
        (
            "{_factory_: neva_tiny, finetune: {optim: {_target_: optim.Adam}}}",
            "/finetune/optim",
        ),
        (
            "{_factory_: neva_tiny, finetune: {optim: {_target_: optim.SGD, eps: 1.0}}}",
            "/finetune/optim",
        ),
        (
            "{_factory_: neva_tiny, finetune: {trainer: {callbacks: [{_target_: EarlyStoping}]}}}",
            "/finetune/trainer/callbacks/0",
        ),
        (
            "{_factory_: neva_tiny, finetune: {trainer: {callbacks: [{every: 5}, {patience: x}]}}}",
            "/finetune/trainer/callbacks/1",
        ),
        (
            "{_factory_: neva_tiny, finetune: {trainer: {max_time: 15}}}",
            "/finetune/trainer/max_time",
        ),
        (
            "{_factory_: neva_tiny, finetune: {trainer: {max_time: 15x}}}",
            "/finetune/trainer/max_time",
        ),
        (
            "{_factory_: neva_tiny, finetune: {log: {ckpt: {train_time_interval: ''}}}}",
            "/finetune/log/ckpt/train_time_interval",
        ),
        (
            "{_factory_: neva_tiny, finetune: {log: {ckpt: {mode: best}}}}",
            "/finetune/log/ckpt/mode",
        ),
        (
            "{_factory_: neva_tiny, finetune: {trainer: {nan_policy: ignore}}}",
            "/finetune/trainer/nan_policy",
        ),
        (
            "{_factory_: neva_tiny, finetune: {data: {_target_: vlm.MockDataModule, paths: a.json}}}",
            "/finetune/data",
        ),
        (
            "{_factory_: neva_tiny, finetune: {data: {_target_: MyData, shards: a}}}",
            "/finetune/data",
        ),
        (
            "{_factory_: neva_tiny, finetune: {data: {_target_: 'my_crate::MyData', seq_length: long}}}",
            "/finetune/data",
        ),
    ];
    for (text, expect) in cases {
        let errors = recipe_errors(&yaml(text)).join("\n");
        assert!(errors.contains(expect), "{text}: {errors:?}");
    }
}

#[test]
fn custom_data_modules_have_the_common_fields() {
    let schema = (SCHEMAS[0].schema)();
    let variants = schema["$defs"]["Data"]["anyOf"].as_array().expect("the data modules");
    let custom = variants
        .last()
        .and_then(|custom| custom["properties"].as_object())
        .expect("the custom one");
    let fields: Vec<_> = custom.keys().map(String::as_str).filter(|name| *name != "_target_").collect();
    assert_eq!(fields, neva_schemas::CustomData::FIELDS);
}
