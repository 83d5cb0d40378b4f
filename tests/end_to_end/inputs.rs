//! Wrong input: a helpful message, the right exit code, and no leftover files.

use neva_tests::{neva_run, root, run};
use std::path::Path;

/// Runs a photo run in `dir` with `settings`, and expects `code` and all of `words` on stderr.
#[track_caller]
fn check(dir: &Path, settings: &[&str], code: i32, words: &[&str]) {
    let at = format!("dir={}", dir.display());
    let mut arguments = vec![
        "examples/photos/recipe.yaml",
        "--set",
        &at,
        "--set",
        "num_gpus_per_node=1",
        "--set",
        "finetune.trainer.max_steps=1",
    ];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let ended = run(neva_run(&arguments)).with_code(code);
    for word in words {
        assert!(ended.stderr.contains(word), "{settings:?}: no {word:?} in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// Writes a dataset of these records to `dir`.
fn dataset(dir: &Path, name: &str, records: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, records).unwrap();
    format!("finetune.data.paths={}", path.display())
}

#[test]
fn user_errors_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let photos = root().join("examples/photos");
    let folder = format!("finetune.data.data_config.image_folder={}", photos.display());
    let turns = r#""conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]"#;

    check(at, &["finetune.trainer.max_stepz=1"], 2, &["max_stepz", "max_steps"]);
    check(at, &["finetune.trainer.max_steps=many"], 2, &["many"]);
    check(at, &["finetune.trainer.max_steps"], 2, &["="]);
    check(at, &["finetune.data.global_batch_size=30"], 2, &["global_batch_size", "30"]);
    check(at, &["finetune.data.paths=/nowhere/photos.json"], 2, &["/nowhere/photos.json"]);
    check(at, &[&dataset(at, "text.json", "no json"), &folder], 2, &["text.json"]);
    check(
        at,
        &[
            &dataset(at, "missing.json", &format!(r#"[{{"id": "a", "image": "no.jpg", {turns}}}]"#)),
            &folder,
        ],
        2,
        &["missing.json", "no.jpg", "image"],
    );
    check(
        at,
        &[
            &dataset(
                at,
                "count.json",
                &format!(r#"[{{"id": "b", "image": ["coffee.jpg", "coins.jpg"], {turns}}}]"#),
            ),
            &folder,
        ],
        2,
        &["count.json", "<image>"],
    );
    check(at, &["finetune.data.tokenizer=builtin:nothing"], 2, &["builtin:mistral_2k"]);
    check(at, &["finetune.data.data_config.conv_template=v9"], 2, &["v9", "v1"]);
    check(
        at,
        &["finetune.resume.restore_config={path: /nowhere}"],
        2,
        &["/nowhere", "config.json"],
    );
    check(at, &["finetune.resume.resume_from_path=/nowhere"], 2, &["/nowhere"]);
    check(at, &["finetune.trainer.accelerator=gpu"], 3, &["GPU", "LIBTORCH"]);
}

/// The rank with the image is blamed, even if its peers report a closed connection first.
#[test]
fn a_broken_image_is_the_root_cause_in_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let (at, images) = (dir.path(), dir.path().join("images"));
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("broken.jpg"), "hello").unwrap();
    let turns = r#""conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]"#;
    let whole = format!(r#"{{"id": "text", {}}}"#, turns.replace("<image>\\n", ""));
    let broken = format!(r#"{{"id": "broken", "image": "broken.jpg", {turns}}}"#);
    // One in eight samples has it, so that other ranks continue meanwhile.
    let records = std::iter::repeat_n(whole, 7).chain([broken]).collect::<Vec<_>>().join(", ");
    let data = dataset(at, "broken.json", &format!("[{records}]"));
    let folder = format!("finetune.data.data_config.image_folder={}", images.display());
    let batch = ["finetune.data.global_batch_size=8", "finetune.data.micro_batch_size=2"];
    for layout in [
        &["num_gpus_per_node=2"][..],
        &["num_gpus_per_node=2", "finetune.trainer.strategy.tensor_model_parallel_size=2"],
        &["num_gpus_per_node=2", "finetune.trainer.strategy.pipeline_model_parallel_size=2"],
    ] {
        let settings = [&[data.as_str(), folder.as_str()], &batch[..], layout].concat();
        check(at, &settings, 2, &["broken.jpg"]);
    }
}

#[test]
fn mismatched_weights_are_all_reported() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = root().join("tests/fixtures/hf/llava_clip_llama");
    let restore = |path: &Path| format!("finetune.resume.restore_config={{path: {}}}", path.display());
    // The fixture's model is smaller than the recipe's: every difference is reported with a suggestion.
    check(
        dir.path(),
        &[&restore(&fixture)],
        2,
        &[
            "hidden_size",
            "num_hidden_layers",
            "--set finetune.model.text_config.hidden_size=64",
        ],
    );

    let config = std::fs::read(fixture.join("config.json")).unwrap();
    let weights = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("config.json"), config).unwrap();
    std::fs::write(broken.join("model.safetensors"), &weights[..weights.len() - 1]).unwrap();
    let mut settings = vec![restore(&broken)];
    let text = [
        ("hidden_size", 64),
        ("intermediate_size", 160),
        ("num_hidden_layers", 2),
        ("num_key_value_heads", 4),
    ];
    settings.extend(text.map(|(name, value)| format!("finetune.model.text_config.{name}={value}")));
    let vision = [("hidden_size", 64), ("intermediate_size", 128)];
    settings.extend(vision.map(|(name, value)| format!("finetune.model.vision_config.{name}={value}")));
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    check(dir.path(), &settings, 2, &["truncated", "model.safetensors"]);
}

#[test]
fn an_unwritable_folder_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let at = format!("dir={}", file.display());
    let ended = run(neva_run(&["recipes/neva_tiny.yaml", "--set", &at]));
    assert!(matches!(ended.code, Some(2 | 3)), "{ended:?}");
    assert!(ended.stderr.contains(file.to_str().unwrap()), "{}", ended.stderr);
}
