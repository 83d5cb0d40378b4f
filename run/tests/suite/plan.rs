//! Lowering to a plan, and the run's folder.

use std::{fs, path::Path};

use jiff::civil::date;
use neva_run::{
    config::{self, Source},
    create_run_folder, lower, resolve,
};
use neva_schemas::{LaunchPlan, PLAN_FORMAT, exit_class};
use serde_json::{Value, json};

fn plan(text: &str) -> LaunchPlan {
    let run = resolve(config::parse(&Source::new("run.yaml", text)).unwrap(), &[""; 0])
        .unwrap()
        .run;
    lower(&run, Path::new("/home/me"), date(2026, 11, 4).at(3, 2, 1, 0))
}

#[test]
fn the_folder_consists_of_directory_name_and_date() {
    let cases = [
        ("_factory_: neva_tiny", "/home/me/nemo_experiments/default/2026-11-04_03-02-01"),
        ("{_factory_: neva_tiny, name: x, dir: runs}", "/home/me/runs/x/2026-11-04_03-02-01"),
        ("{_factory_: neva_tiny, dir: /runs}", "/runs/default/2026-11-04_03-02-01"),
        (
            "{_factory_: neva_tiny, dir: /runs, finetune: {log: {log_dir: ./other/, name: y}}}",
            "/home/me/other/y/2026-11-04_03-02-01",
        ),
    ];
    for (text, expect) in cases {
        let plan = plan(text);
        assert_eq!(plan.run_dir, Path::new(expect), "{text}");
        assert_eq!(plan.name, plan.run.finetune.log.name);
        assert_eq!(
            plan.run_dir.parent(),
            plan.run.finetune.log.log_dir.map(|dir| dir.join(&plan.name)).as_deref()
        );
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let text = "{_factory_: llava15_7b, num_nodes: 2}";
    let plan = plan(text);
    let bytes = |plan| serde_json::to_string(plan).unwrap();
    assert_eq!(bytes(&plan), bytes(&self::plan(text)));
    assert_eq!(
        (plan.format, plan.num_nodes, plan.ranks_per_node, plan.world_size()),
        (PLAN_FORMAT, 2, 8, 16)
    );
}

#[test]
fn every_relative_path_becomes_absolute() {
    fn check(text: &str, expect: &[(&str, Value)]) {
        let run = serde_json::to_value(plan(text).run.finetune).unwrap();
        for (pointer, value) in expect {
            assert_eq!(run.pointer(pointer), Some(value), "{text} {pointer}");
        }
    }
    let preloaded = |rest: &str| format!("{{_factory_: neva_tiny, finetune: {{data: {{_target_: vlm.NevaPreloadedDataModule, {rest}}}}}}}");
    let data = "/data/vlm.NevaPreloadedDataModule";
    check(
        &preloaded(
            "paths: [a.json, /b.json], val_paths: [v.json, /w.json], data_config: {image_folder: ../images}, tokenizer: tok, image_processor: p.json",
        ),
        &[
            (&format!("{data}/val_paths"), json!(["/home/me/v.json", "/w.json"])),
            (&format!("{data}/paths"), json!(["/home/me/a.json", "/b.json"])),
            (&format!("{data}/data_config/image_folder"), json!("/home/me/../images")),
            (&format!("{data}/tokenizer"), json!("/home/me/tok")),
            (&format!("{data}/image_processor"), json!("/home/me/p.json")),
        ],
    );
    check(
        &preloaded("paths: a.json, tokenizer: 'builtin:mistral_2k'"),
        &[
            (&format!("{data}/paths"), json!(["/home/me/a.json"])),
            (&format!("{data}/data_config/image_folder"), Value::Null),
            (&format!("{data}/tokenizer"), json!("builtin:mistral_2k")),
        ],
    );
    check(
        "_factory_: llava15_7b",
        &[("/resume/restore_config/path", json!("nemo://llava-hf/llava-1.5-7b-hf"))],
    );
    check(
        "{_factory_: llava15_7b, finetune: {resume: {restore_config: {path: models/llava}, resume_from_path: ckpt, resume_from_directory: dir, resume_if_exists: true, adapter_path: adapters}}}",
        &[
            ("/resume/resume_from_directory", json!("/home/me/dir")),
            ("/resume/adapter_path", json!("/home/me/adapters")),
            ("/resume/restore_config/path", json!("/home/me/models/llava")),
            ("/resume/resume_from_path", json!("/home/me/ckpt")),
        ],
    );
}

#[test]
fn runs_of_the_same_second_get_different_folders() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan("_factory_: neva_tiny");
    plan.run_dir = dir.path().join("a/b/now");
    let names: Vec<_> = (0..3)
        .map(|_| {
            let mut plan = plan.clone();
            create_run_folder(&mut plan).unwrap();
            assert!(plan.run_dir.is_dir());
            plan.run_dir.file_name().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["now", "now-1", "now-2"]);
}

#[test]
fn a_folder_that_cannot_be_created_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut plan = plan("_factory_: neva_tiny");
    plan.run_dir = dir.path().join("file/default/now");
    let error = create_run_folder(&mut plan).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::CLUSTER);
    assert!(error.to_string().ends_with("file/default"), "{error}");
}
