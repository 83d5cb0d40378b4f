//! Problems of a run's files are found before it starts, and reported at the setting that names them.

use std::{fs, path::Path};

use neva_run::{Experiment, ExperimentError, RunError};
use neva_schemas::{Data, NevaPreloadedDataModule, Script, exit_class};
use serde_json::json;

use crate::{experiment::options, experiment_home::Home, process::Program};

/// A recipe with data of its own, `data.json`.
pub(crate) const RECIPE: &str = "_factory_: neva_tiny
name: train
finetune:
  data:
    _target_: vlm.NevaPreloadedDataModule
    paths: data.json
    tokenizer: builtin:mistral_2k
    seq_length: 128
    global_batch_size: 8
    micro_batch_size: 4
";

/// Returns the text without the frame and the line breaks of a report.
fn flat(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !matches!(*word, "│" | "×" | "·"));
    words.collect::<Vec<_>>().join(" ")
}

fn record(image: Option<&str>) -> serde_json::Value {
    let mark = if image.is_some() { "<image>\n" } else { "" };
    let mut record = json!({"id": 7, "conversations": [
        {"from": "human", "value": format!("{mark}What is it?")}, {"from": "gpt", "value": "A cat."}
    ]});
    if let Some(image) = image {
        record["image"] = json!(image);
    }
    record
}

/// Writes the recipe, and files with one problem each.
fn files(dir: &Path) {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("mine.yaml", RECIPE);
    write("data.json", &json!([record(None)]).to_string());
    write("photos.json", &json!([record(Some("cat.jpg"))]).to_string());
    write("urls.json", &json!([record(Some("https://a.b/c.jpg"))]).to_string());
    write("broken.json", "[{\"conversations\": [");
    write("object.json", "{}");
    fs::write(dir.join("utf16.jsonl"), b"\xff\xfe{\0}\0").unwrap();
    let config = include_str!("../../../tests/fixtures/hf/llava_clip_llama_gqa/config.json");
    for model in ["model", "shards", "quantized", "unmarked"] {
        write(&format!("{model}/config.json"), config);
    }
    write("model/model.safetensors", "");
    write("quantized/model.safetensors", "");
    let mut quantized: serde_json::Value = serde_json::from_str(config).unwrap();
    quantized["quantization_config"] = json!({"load_in_4bit": true});
    write("quantized/config.json", &quantized.to_string());
    write("bert/config.json", &json!({"model_type": "bert"}).to_string());
    write("bert/model.safetensors", "");
    let tokenizer = include_str!("../../../engine/data/tokenizers/mistral_2k/tokenizer.json");
    write("unmarked/tokenizer.json", &tokenizer.replace("<image>", "<photo>"));
    write("unmarked/model.safetensors", "");
    let index = json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}});
    write("shards/model.safetensors.index.json", &index.to_string());
    write("shards/model-1.safetensors", "");
    write("empty/README", "");
    write("lora/checkpoint.json", "{}");
    let run = neva_run::resolve(neva_run::load("neva_tiny").unwrap(), &["peft_scheme=lora"])
        .unwrap()
        .run;
    write("lora/run.json", &serde_json::to_string(&run).unwrap());
    let adapter = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_qalora": true});
    write("qalora/adapter_config.json", &adapter.to_string());
    write("ia3/adapter_config.json", r#"{"peft_type": "IA3"}"#);
    write("original/adapter_config.json", r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#);
    write("original/config.json", r#"{"model_type": "llava_llama", "mm_hidden_size": 1024}"#);
}

#[test]
fn a_missing_or_wrong_file_is_reported_at_its_setting() {
    let cases: &[(&[&str], &str)] = &[
        (&["finetune.data.paths=nope.json"], "`finetune.data.paths[0]`: there is no file"),
        (
            &["finetune.data.paths=[data.json, nope.json]"],
            "`finetune.data.paths[1]`: there is no file",
        ),
        (
            &["finetune.data.val_paths=nope.json"],
            "`finetune.data.val_paths[0]`: there is no file",
        ),
        (&["finetune.data.paths=broken.json"], "is not JSON"),
        (&["finetune.data.paths=object.json"], "expected a list of records"),
        (
            &["finetune.data.paths=broken.json", "finetune.data.on_error=skip"],
            "is not JSON: it ends within record 0",
        ),
        (
            &["finetune.data.paths=utf16.jsonl"],
            "is UTF-16, but JSON must be UTF-8: convert it with",
        ),
        (
            &[
                "finetune.data.paths=photos.json",
                "finetune.data.data_config.image_folder=data.json",
            ],
            "data.json is no tar archive, or not a complete one",
        ),
        (
            &["finetune.data.paths=urls.json"],
            "image: `https://a.b/c.jpg` is an address: download the image",
        ),
        (&["finetune.data.skip_list=/nope"], "`finetune.data.skip_list`: cannot read /nope"),
        (&["finetune.data.skip_list=data.json"], "line 1 is not a line of a skip list"),
        (&["finetune.data.paths=photos.json"], "record 0 (id 7), image: there is no file"),
        (
            &["finetune.data.paths=photos.json", "finetune.data.data_config.image_folder=/nope"],
            "`finetune.data.data_config.image_folder`: there is no folder /nope",
        ),
        (
            &[
                "finetune.data.paths=photos.json",
                "finetune.data.on_error=skip",
                "finetune.data.data_config.image_folder=/nope",
            ],
            "`finetune.data.data_config.image_folder`: there is no folder /nope",
        ),
        (
            &["finetune.data.data_config.conv_template=nope"],
            "there is no conversation template `nope`",
        ),
        (&["finetune.data.tokenizer=/nope"], "`finetune.data.tokenizer`: cannot read /nope"),
        (
            &["finetune.data.tokenizer=builtin:nope"],
            "`finetune.data.tokenizer`: tokenizer builtin:nope",
        ),
        (
            &["finetune.data.tokenizer=null"],
            "`finetune.data.tokenizer`: no tokenizer is named",
        ),
        (
            &["finetune.data.image_processor=/nope"],
            "`finetune.data.image_processor`: cannot read /nope",
        ),
        (
            &[
                "finetune.model.text_config.vocab_size=2000",
                "finetune.model.image_token_index=1999",
            ],
            "`finetune.model.text_config.vocab_size`: the tokenizer builtin:mistral_2k has",
        ),
        (
            &["finetune.resume.resume_from_path=/nope"],
            "`finetune.resume.resume_from_path`: there is no checkpoint in /nope",
        ),
        (
            &["finetune.resume.resume_from_path=empty"],
            "`finetune.resume.resume_from_path`: there is no checkpoint in",
        ),
        (
            &["finetune.resume.restore_config={path: /nope}"],
            "`finetune.resume.restore_config.path`: there is no model in /nope",
        ),
        (&["finetune.resume.restore_config={path: 'nemo://a/b'}"], "there is no model in"),
        (
            &["finetune.resume.restore_config={path: empty}"],
            "holds neither model.safetensors nor",
        ),
        (
            &["finetune.resume.restore_config={path: shards}"],
            "names model-2.safetensors, which is not there",
        ),
        (&["finetune.resume.restore_config={path: model}"], "config.json"),
        (&["finetune.resume.restore_config={path: quantized}"], "`quantization_config` is"),
        (
            &["finetune.resume.restore_config={path: bert}"],
            "bert/config.json: `model_type` is \"bert\", supported: llava, internvl",
        ),
        (
            &["finetune.resume.restore_config={path: unmarked}", "finetune.data.tokenizer=null"],
            "`finetune.data.tokenizer`: the tokenizer has no token `<image>`, but it has the id 2046 in config.json",
        ),
        (
            &["finetune.resume.restore_config={path: lora}"],
            "use `adapter_path`: --set '~finetune.resume.restore_config'",
        ),
        (
            &["finetune.resume.adapter_path=/nope"],
            "`finetune.resume.adapter_path`: there is no folder /nope",
        ),
        (
            &["finetune.resume.adapter_path=empty"],
            "is neither a checkpoint of this program nor a folder of PEFT",
        ),
        (
            &["finetune.resume.adapter_path=qalora"],
            "`use_qalora` is true, which this program does not compute",
        ),
        (&["finetune.resume.adapter_path=ia3"], "the adapter's kind is \"IA3\" ((IA)³)"),
        (
            &["finetune.resume.adapter_path=original"],
            "is an adapter of the original LLaVA code",
        ),
    ];
    for (sets, message) in cases {
        for command in [&["mine.yaml"][..], &["mine.yaml", "--direct"]] {
            let sets = sets.iter().flat_map(|set| ["--set", set]);
            let arguments: Vec<_> = command.iter().copied().chain(sets).collect();
            let program = Program::new("", &arguments);
            files(program.dir.path());
            let (code, _, stderr, dir) = program.run();
            assert_eq!(code, i32::from(exit_class::INPUT), "{arguments:?}: {stderr}");
            assert!(flat(&stderr).contains(message), "{message}: {stderr}");
            assert!(stderr.contains("╭─[") || stderr.contains("--set"), "where it was written: {stderr}");
            assert!(!dir.path().join("nemo_experiments").exists(), "{message}: nothing is made");
        }
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<_> = ["mine.yaml", "--no-preflight"].into_iter().chain(sets).collect();
        let program = Program::new("", &arguments);
        files(program.dir.path());
        let (code, _, stderr, _dir) = program.run();
        assert_eq!(code, 0, "the ranks decide: {arguments:?}: {stderr}");
    }
}

#[test]
fn files_that_the_ranks_accept_are_accepted() {
    let long: Vec<_> = (0..70).map(|_| record(None)).chain([json!("the ranks look at this one")]).collect();
    let cases: &[&[&str]] = &[
        &[],
        // Conversations without images need no image folder.
        &["finetune.data.data_config.image_folder=/nope"],
        // Only the first records are checked.
        &["finetune.data.paths=long.json"],
        &["finetune.data.paths=huge.json"],
        // The ranks count broken samples.
        &["finetune.data.paths=photos.json", "finetune.data.on_error=skip"],
        // Neither weights nor files are read from there.
        &["finetune.resume.restore_config={path: /nope, load_model_state: false, load_artifacts: false}"],
        // A checkpoint may replace all of the base, which then may be of another model.
        &[
            "finetune.resume.restore_config={path: model}",
            "finetune.resume.resume_if_exists=true",
        ],
    ];
    for sets in cases {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<_> = ["mine.yaml"].into_iter().chain(sets).collect();
        let program = Program::new("", &arguments);
        let dir = program.dir.path();
        files(dir);
        fs::write(dir.join("long.json"), json!(long).to_string()).unwrap();
        // A record that ends after the checked bytes.
        let mut huge = record(None);
        huge["note"] = json!("x".repeat(5 << 20));
        fs::write(dir.join("huge.json"), json!([record(None), huge]).to_string()).unwrap();
        let (code, _, stderr, _dir) = program.run();
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
    }
}

#[test]
fn every_point_of_a_sweep_is_checked() {
    let program = Program::new("", &["mine.yaml", "--sweep", "finetune.data.paths=data.json,nope.json"]);
    files(program.dir.path());
    let store = program.dir.path().join("store");
    let program = program.env(&[("NEVA_RUN_HOME", &store.display().to_string())]);
    let (code, _, stderr, _dir) = program.run();
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(
        flat(&stderr).contains("there is no file") && stderr.contains("--sweep:1:"),
        "{stderr}"
    );
    assert!(!store.exists(), "nothing is made");
}

#[test]
fn output_of_a_task_is_checked_when_its_consumer_starts() {
    let home = Home::new();
    let experiment = |make: &str, edge: &str| {
        let recipe: String = RECIPE.lines().map(|line| format!("      {line}\n")).collect();
        let make = json!(make);
        format!(
            "name: made\ntasks:\n  make: {{task: {{_target_: run.Script, inline: {make}}}}}\n  train:\n{edge}    task:\n{}",
            recipe.replace("data.json", "made.json")
        )
    };
    let data = json!([record(None)]).to_string();
    let make = format!("echo '{data}' > made.json");
    // No other task creates it, so it must exist.
    fs::write(home.path("exp.yaml"), experiment(&make, "")).unwrap();
    let (code, _, stderr) = home.run(&["exp.yaml"]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(
        flat(&stderr).contains("`tasks.train.task.finetune.data.paths[0]`: there is no file"),
        "{stderr}"
    );
    assert!(home.folder("made").is_none(), "nothing is made");
    // The task before creates another file.
    fs::write(home.path("exp.yaml"), experiment("true", "    depends_on: [make]\n")).unwrap();
    let (code, _, stderr) = home.run(&["exp.yaml"]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(
        flat(&stderr).contains("tasks.train.task.finetune.data.paths[0]: there is no file"),
        "{stderr}"
    );
    let run = home.folder("made").unwrap().join("tasks/train");
    assert!(!run.join("logs").exists(), "no rank was started");
    assert_eq!(home.run(&["exp.yaml", "--no-preflight"]).0, 0);
    fs::write(home.path("exp.yaml"), experiment(&make, "    depends_on: [make]\n")).unwrap();
    home.done(&["exp.yaml"]);
}

#[test]
fn experiments_from_rust_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = neva_recipes::neva_tiny::finetune_recipe(neva_recipes::neva_tiny::default_args());
    finetune.data = Data::Preloaded(NevaPreloadedDataModule {
        paths: vec!["nope.json".into()],
        tokenizer: Some("builtin:mistral_2k".into()),
        ..NevaPreloadedDataModule::default()
    });
    let experiment = Experiment::new("x").add("a", Script::inline("true")).add("train", finetune);
    let failed = experiment.clone().run(options(dir.path())).unwrap_err();
    let RunError::Invalid(problems) = &failed else {
        panic!("{failed:?}")
    };
    assert_eq!(problems[0].path, "tasks.train.task.finetune.data.paths[0]");
    // This test has no rank program, so the task fails later.
    let failed = experiment.run(options(dir.path()).preflight(false)).unwrap_err();
    assert!(
        matches!(
            &failed,
            RunError::Experiment(ExperimentError::Failed(_)) | RunError::NoRankProgram { .. }
        ),
        "{failed:?}"
    );
}
