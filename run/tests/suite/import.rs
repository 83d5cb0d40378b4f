//! `neva-run import FOLDER`: complete models are imported, others are refused with all their problems.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use neva_run::{ImportOptions, import_ckpt};
use neva_schemas::{Model, exit_class};
use serde_json::{Map, Value, json};

use crate::{
    process::Program,
    tensor_files::{Stored, pickle, renamed, stored, write},
};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";

pub(crate) fn fixture(case: &str) -> PathBuf {
    PathBuf::from(format!("{}/../tests/fixtures/hf/{case}", env!("CARGO_MANIFEST_DIR")))
}

/// Returns the tensors of the fixture's model under the names of the hub's files: transformers 5.23 saves CLIP without a level.
pub(crate) fn hub_tensors() -> Vec<Stored> {
    renamed(&fixture("llava_clip_llama").join(WEIGHTS), |name| {
        Some(name.replace("vision_tower.", "vision_tower.vision_model."))
    })
}

/// Copies the fixture's model with a tokenizer to `dir`.
pub(crate) fn model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::copy(fixture("llava_clip_llama").join(CONFIG), dir.join(CONFIG)).unwrap();
    write(&dir.join(WEIGHTS), hub_tensors());
    let tokenizer = include_bytes!("../../../engine/data/tokenizers/mistral_2k/tokenizer.json");
    fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
}

pub(crate) fn config(dir: &Path, change: impl FnOnce(&mut Value)) {
    let mut config: Value = serde_json::from_slice(&fs::read(dir.join(CONFIG)).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.join(CONFIG), config.to_string()).unwrap();
}

/// Runs `import` with further arguments. Returns exit code, standard output and standard error.
pub(crate) fn import(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<_> = ["import"].iter().chain(arguments).copied().collect();
    let cache = dir.join("models").display().to_string();
    let (code, stdout, stderr, _dir) = Program::new("", &arguments).env(&[("NEMO_MODELS_CACHE", &cache)]).run();
    (code, stdout, stderr)
}

/// Returns the entries of the model cache, without locks.
pub(crate) fn imported_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("models")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

/// A name of the hub's files as transformers 4.52 to 4.57 has it in memory.
fn newer(name: &str) -> String {
    match name.strip_prefix("language_model.") {
        Some(rest) => rest
            .strip_prefix("model.")
            .map_or_else(|| rest.to_owned(), |rest| format!("model.language_model.{rest}")),
        None => format!("model.{name}"),
    }
}

/// Writes tensors to two files with an index.
fn write_shards(dir: &Path, tensors: Vec<Stored>, end: &str, bytes: fn(&[Stored]) -> Vec<u8>) {
    let (vision, rest): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|tensor| tensor.name.contains("vision"));
    let mut map = Map::new();
    for (file, tensors) in [("a", rest), ("b", vision)] {
        let file = format!("{file}{end}");
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(file))));
        fs::write(dir.join(&file), bytes(&tensors)).unwrap();
    }
    let name = if end == ".bin" {
        "pytorch_model.bin.index.json"
    } else {
        "model.safetensors.index.json"
    };
    fs::write(dir.join(name), json!({"weight_map": map}).to_string()).unwrap();
}

#[test]
fn whole_models_in_every_layout_get_the_names_of_the_hub() {
    type Make = fn(&Path);
    let cases: &[(&str, Make)] = &[
        ("hub", |_| {}),
        ("transformers_4_52", |dir| {
            let tensors = hub_tensors().into_iter().map(|tensor| Stored {
                name: newer(&tensor.name),
                ..tensor
            });
            write(&dir.join(WEIGHTS), tensors);
        }),
        ("transformers_5", |dir| {
            let whole = fixture("llava_clip_llama").join(WEIGHTS);
            write(&dir.join(WEIGHTS), renamed(&whole, |name| Some(newer(name))));
        }),
        ("transformers_5_saved", |dir| {
            fs::copy(fixture("llava_clip_llama").join(WEIGHTS), dir.join(WEIGHTS)).unwrap();
        }),
        ("shards", |dir| {
            fs::remove_file(dir.join(WEIGHTS)).unwrap();
            write_shards(dir, hub_tensors(), ".safetensors", |tensors| {
                crate::tensor_files::safetensors(tensors.to_vec())
            });
        }),
        ("pickle", |dir| {
            fs::remove_file(dir.join(WEIGHTS)).unwrap();
            fs::write(dir.join("pytorch_model.bin"), pickle(&hub_tensors())).unwrap();
        }),
        ("pickle_shards", |dir| {
            fs::remove_file(dir.join(WEIGHTS)).unwrap();
            write_shards(dir, hub_tensors(), ".bin", pickle);
        }),
    ];
    for (name, make) in cases {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(name);
        model(&source);
        make(&source);
        check(dir.path(), &source, name, "model");
        assert_eq!(all_stored(&dir.path().join("models").join(name)), hub_tensors(), "{name}");
    }
}

/// Returns the tensors of all safetensors files of a folder, by name.
pub(crate) fn all_stored(dir: &Path) -> Vec<Stored> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let mut tensors: Vec<_> = files.flat_map(|path| stored(&path)).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

#[test]
fn a_file_is_imported_with_the_config_beside_it() {
    for (file, bytes) in [
        ("consolidated.safetensors", crate::tensor_files::safetensors(hub_tensors())),
        ("consolidated.pth", pickle(&hub_tensors())),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        model(&source);
        fs::remove_file(source.join(WEIGHTS)).unwrap();
        fs::write(source.join(file), bytes).unwrap();
        let (code, stdout, stderr) = import(dir.path(), &[source.join(file).to_str().unwrap()]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("nemo://consolidated"), "{stdout}");
        assert_eq!(all_stored(&dir.path().join("models/consolidated")), hub_tensors());
    }
}

/// Creates a folder of one part of the model in a fixture.
fn part(case: &str, section: &str, dir: &Path) {
    let text = fs::read(fixture(case).join(CONFIG)).unwrap();
    let config = serde_json::from_slice::<Value>(&text).unwrap()[section].take();
    let prefix = if section == "vision_config" {
        "vision_tower."
    } else {
        "language_model."
    };
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(CONFIG), config.to_string()).unwrap();
    let tensors = renamed(&fixture(case).join(WEIGHTS), |name| name.strip_prefix(prefix).map(str::to_owned));
    write(&dir.join(WEIGHTS), tensors);
}

#[test]
fn every_family_is_imported() {
    let (vision, language) = (("vision_config", "vision encoder"), ("text_config", "language model"));
    for (case, (section, kind)) in [
        ("llava_clip_llama", vision),
        ("llava_siglip_llama", vision),
        ("siglip_odd", vision),
        ("llava_internvit", vision),
        ("internvl_norm", vision),
        ("llava_clip_llama", language),
        ("mistral_window", language),
        ("nemotron_bias", language),
        ("qwen2_window", language),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(case);
        part(case, section, &source);
        check(dir.path(), &source, case, kind);
    }
    for case in [
        "internvl_qwen2",
        "internvl_6b",
        "llava_siglip_llama",
        "llava_internvit",
        "nemotron_bias",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(case);
        fs::create_dir_all(&source).unwrap();
        for name in [CONFIG, WEIGHTS] {
            fs::copy(fixture(case).join(name), source.join(name)).unwrap();
        }
        check(dir.path(), &source, case, "model");
    }
}

/// OpenGVLab's own format: other names, and one tensor for query, key and value.
#[test]
fn an_encoder_of_opengvlab_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("InternViT");
    part("internvl_6b", "vision_config", &source);
    config(&source, |config| {
        config["model_type"] = json!("intern_vit_6b");
        for (ours, theirs) in [("use_qk_norm", "qk_normalization"), ("attention_bias", "qkv_bias")] {
            config[theirs] = config.as_object_mut().unwrap().remove(ours).unwrap();
        }
        for size in ["image_size", "patch_size"] {
            config[size] = config[size][0].take();
        }
    });
    let names = [
        ("encoder.layer.", "encoder.layers."),
        ("cls_token", "class_embedding"),
        ("position_embeddings", "position_embedding"),
        ("patch_embeddings.projection", "patch_embedding"),
        ("lambda_", "ls"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.projection_layer", "attn.proj"),
        ("attention.", "attn."),
    ];
    let mut tensors = stored(&source.join(WEIGHTS));
    let bytes: BTreeMap<_, _> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.bytes.clone())).collect();
    tensors.retain(|tensor| !tensor.name.contains(".k_proj.") && !tensor.name.contains(".v_proj."));
    for tensor in &mut tensors {
        if tensor.name.contains(".q_proj.") {
            for part in ["k_proj", "v_proj"] {
                tensor.bytes.extend(&bytes[&tensor.name.replace("q_proj", part)]);
            }
            tensor.info["shape"][0] = json!(3 * tensor.info["shape"][0].as_u64().unwrap());
            tensor.name = tensor.name.replace("q_proj", "qkv");
        }
        for (theirs, native) in names {
            tensor.name = tensor.name.replace(theirs, native);
        }
    }
    write(&source.join(WEIGHTS), tensors);
    check(dir.path(), &source, "InternViT", "vision encoder");
}

fn check(dir: &Path, source: &Path, name: &str, kind: &str) {
    fs::write(source.join("README.md"), "no file of a model").unwrap();
    let text = source.display().to_string();
    let (code, stdout, stderr) = import(dir, &[&text, "--output", "json"]);
    assert_eq!(code, 0, "{name}: {stdout}{stderr}");
    let imported: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(imported["kind"], kind);
    assert_eq!(imported["address"], format!("nemo://{name}"));
    let target = dir.join("models").join(name);
    assert_eq!(imported["path"], target.display().to_string());
    assert!(!target.join("README.md").exists());
    let weights = |name: &str| name.contains("safetensors");
    for entry in fs::read_dir(&target).unwrap().map(|entry| entry.unwrap()) {
        if !weights(&entry.file_name().to_string_lossy()) {
            assert_eq!(fs::read(entry.path()).unwrap(), fs::read(source.join(entry.file_name())).unwrap());
        }
    }
    // Whatever their names, the tensors are those of the source.
    let values = |dir: &Path| {
        let mut values: Vec<_> = all_stored(dir)
            .into_iter()
            .map(|tensor| (tensor.info.to_string(), tensor.bytes))
            .collect();
        values.sort();
        values
    };
    if source.join(WEIGHTS).is_file() {
        assert!(values(&target) == values(source), "{name}: other values");
    }
    // The result is in the hub's form itself.
    let (code, stdout, _) = import(dir, &[target.to_str().unwrap()]);
    assert!(code == 0 && !stdout.contains("changed"), "{stdout}");
    // An identical model is not copied again; another one needs `--overwrite`.
    let (code, stdout, _) = import(dir, &[&text]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("already imported"), "{stdout}");
    fs::write(target.join("note"), "mine").unwrap();
    let (code, _, stderr) = import(dir, &[&text]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stderr.contains("--overwrite") && target.join("note").exists(), "{stderr}");
    let (code, stdout, stderr) = import(dir, &[&text, "--overwrite"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("imported") && !target.join("note").exists(), "{stdout}");
    // A model of the same shapes with another value is not identical.
    let weights = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .max()
        .unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let (code, _, stderr) = import(dir, &[&text]);
    assert!(code == 2 && stderr.contains("--overwrite"), "{stderr}");
    assert_eq!(import(dir, &[&text, "--overwrite"]).0, 0);
    assert_eq!(imported_names(dir), [name]);
}

#[test]
fn a_source_that_is_not_there_may_be_a_model_of_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    for source in [
        "a-org/a-model",
        "https://huggingface.co/a-org/a-model",
        "https://huggingface.co/a-org/a-model/tree/main",
    ] {
        let (code, _, stderr) = import(dir.path(), &[source]);
        assert!(
            code == 2 && stderr.contains("did you mean hf://a-org/a-model"),
            "{source}: {stderr}"
        );
    }
    let (_, _, stderr) = import(dir.path(), &["/no/such/folder"]);
    assert!(!stderr.contains("did you mean"), "{stderr}");
    let (source, file) = (fixture("llava_clip_llama"), dir.path().join("file"));
    fs::write(&file, "").unwrap();
    let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap(), "--output", file.to_str().unwrap()]);
    assert!(code == 2 && stderr.contains("is a file, and a model is a folder"), "{stderr}");
}

#[test]
fn incomplete_models_are_refused() {
    type Break = fn(&Path);
    let cases: &[(Break, &[&str])] = &[
        (|dir| fs::remove_file(dir.join(CONFIG)).unwrap(), &["there is no config.json"]),
        (|dir| fs::write(dir.join(CONFIG), "{").unwrap(), &["config.json: not JSON"]),
        (|dir| fs::write(dir.join(CONFIG), "[]").unwrap(), &["not a JSON object"]),
        (
            |dir| config(dir, |config| config["model_type"] = json!("bert")),
            &["`model_type` is \"bert\", known are llava", "llama", "clip_vision_model"],
        ),
        (
            |dir| config(dir, |config| config["text_config"]["model_type"] = json!("mamba")),
            &["`text_config.model_type` is \"mamba\", supported"],
        ),
        // Weights of another size.
        (
            |dir| config(dir, |config| config["text_config"]["hidden_size"] = json!(128)),
            &["has shape", "its config says"],
        ),
        (
            |dir| config(dir, |config| config["text_config"]["num_hidden_layers"] = json!(3)),
            &["layers.2.input_layernorm.weight` [64] is missing", "more"],
        ),
        (
            |dir| config(dir, |config| config["text_config"]["num_hidden_layers"] = json!(1)),
            &["is not in the model of its config"],
        ),
        (
            |dir| fs::remove_file(dir.join(WEIGHTS)).unwrap(),
            &["neither model.safetensors nor", "pytorch_model.bin"],
        ),
        (
            |dir| {
                fs::remove_file(dir.join(WEIGHTS)).unwrap();
                let map = json!({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}});
                fs::write(dir.join("model.safetensors.index.json"), map.to_string()).unwrap();
            },
            &["names a.safetensors and 1 more, which does not exist"],
        ),
        (
            |dir| {
                fs::remove_file(dir.join(WEIGHTS)).unwrap();
                let map = json!({"weight_map": {"a": "../a.safetensors"}});
                fs::write(dir.join("model.safetensors.index.json"), map.to_string()).unwrap();
            },
            &["no valid `weight_map`"],
        ),
        (
            |dir| {
                let bytes = fs::read(dir.join(WEIGHTS)).unwrap();
                fs::write(dir.join(WEIGHTS), &bytes[..bytes.len() - 1]).unwrap();
            },
            &["truncated", "but the header says"],
        ),
        (
            |dir| fs::write(dir.join(WEIGHTS), [255; 64]).unwrap(),
            &["model.safetensors: not a file of weights", "download it again"],
        ),
        (|dir| fs::write(dir.join(WEIGHTS), "").unwrap(), &["it ends before its header"]),
        (
            |dir| {
                let text = fs::read_to_string(dir.join("tokenizer.json")).unwrap();
                fs::write(dir.join("tokenizer.json"), text.replace("<image>", "<photo>")).unwrap();
            },
            &["has no token `<image>`", "2046"],
        ),
        (
            |dir| config(dir, |config| config["image_token_index"] = json!(5)),
            &["the image token has the id 2046", "but 5 in config.json"],
        ),
        (|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]),
        (
            |dir| {
                // Values of a quantized model whose config does not say so.
                let bytes = fs::read(dir.join(WEIGHTS)).unwrap();
                let length = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
                let header = String::from_utf8(bytes[8..length].to_vec()).unwrap().replacen("F32", "I32", 1);
                fs::write(dir.join(WEIGHTS), [&bytes[..8], header.as_bytes(), &bytes[length..]].concat()).unwrap();
            },
            &["has the kind I32", "floating-point", "use the original model"],
        ),
    ];
    for (broken, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("broken");
        model(&source);
        broken(&source);
        let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{words:?}: {stderr}");
        let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in *words {
            assert!(flat.contains(word), "{word}: {flat}");
        }
        assert_eq!(imported_names(dir.path()), Vec::<String>::new(), "{words:?}");
    }
}

#[test]
fn a_model_that_cannot_answer_is_imported_with_a_warning() {
    type Make = fn(&Path);
    let cases: [(Make, &[&str]); 6] = [
        (
            |dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(),
            &["has no tokenizer", "copy tokenizer.json", "finetune.data.tokenizer=DIR"],
        ),
        (
            |dir| fs::rename(dir.join("tokenizer.json"), dir.join("vocab.json")).unwrap(),
            &["has no tokenizer", "vocab.json is not read", "save_pretrained(DIR)"],
        ),
        (
            |dir| fs::write(dir.join("generation_config.json"), "{").unwrap(),
            &["generation_config.json is not JSON", "or remove it"],
        ),
        (
            |dir| config(dir, |config| drop(config.as_object_mut().unwrap().remove("model_type"))),
            &["has no `model_type`", "llava"],
        ),
        (|_| {}, &[]),
        // A vision encoder reads no text.
        (
            |dir| {
                fs::remove_dir_all(dir).unwrap();
                part("llava_clip_llama", "vision_config", dir);
            },
            &[],
        ),
    ];
    for (make, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        model(&source);
        make(&source);
        let (code, stdout, stderr) = import(dir.path(), &[source.to_str().unwrap(), "--output", "json"]);
        assert_eq!(code, 0, "{stderr}");
        let imported: Value = serde_json::from_str(&stdout).unwrap();
        let warnings = imported["warnings"].to_string();
        assert_eq!(warnings == "[]", words.is_empty(), "{warnings}");
        assert!(words.iter().all(|word| warnings.contains(word)), "{warnings}");
        assert_eq!(stderr.contains("warning: "), !words.is_empty(), "{stderr}");
    }
}

#[test]
fn leftovers_are_removed_and_another_target_can_be_named() {
    for option in ["--output", "--out"] {
        another_target(option);
    }
}

fn another_target(option: &str) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    let stage = dir.path().join("there/.mine.importing");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("half"), "").unwrap();
    let out = dir.path().join("there/mine");
    let (code, stdout, stderr) = import(dir.path(), &[source.to_str().unwrap(), option, out.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(out.to_str().unwrap()) && !stdout.contains("nemo://"), "{stdout}");
    assert!(!stage.exists() && out.join(WEIGHTS).is_file() && !out.join("half").exists());
    let (code, _, stderr) = import(dir.path(), &["/nope"]);
    assert_eq!(code, i32::from(exit_class::INPUT));
    assert!(stderr.contains("there is no folder or file /nope"), "{stderr}");
}

#[test]
fn import_ckpt_compares_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    let config: Value = serde_json::from_slice(&fs::read(source.join(CONFIG)).unwrap()).unwrap();
    let mut expected = Model::Llava(neva_layout::from_hf_config(&config).unwrap());
    let options = ImportOptions {
        output: Some(dir.path().join("target")),
        ..ImportOptions::default()
    };
    let imported = import_ckpt(&expected, source.to_str().unwrap(), &options).unwrap();
    assert_eq!((imported.kind.as_str(), imported.reused), ("model", false));
    assert_eq!(all_stored(&imported.path), hub_tensors());
    if let Model::Llava(model) = &mut expected {
        model.text_config.intermediate_size = 161;
    }
    let error = import_ckpt(&expected, source.to_str().unwrap(), &options).unwrap_err();
    assert!(error.to_string().contains("`intermediate_size` is 161, but 160"), "{error}");
    // A part of a model is no model.
    part("llava_clip_llama", "vision_config", &dir.path().join("clip"));
    let error = import_ckpt(&expected, dir.path().join("clip").to_str().unwrap(), &options).unwrap_err();
    assert!(error.to_string().contains("it is a vision encoder"), "{error}");
}

#[test]
fn one_process_at_a_time_imports_to_a_target() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    fs::create_dir(dir.path().join("models")).unwrap();
    let lock = fs::File::create(dir.path().join("models/.source.lock")).unwrap();
    lock.try_lock().unwrap();
    let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
    assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
    assert!(stderr.contains("another process is importing"), "{stderr}");
    drop(lock);
    assert_eq!(import(dir.path(), &[source.to_str().unwrap()]).0, 0);
}
