//! `neva-run import FOLDER`: complete models are imported, others are refused with all their problems.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use neva_schemas::exit_class;
use serde_json::{Map, Value, json};

use crate::process::Program;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

fn fixture(case: &str) -> PathBuf {
    PathBuf::from(format!("{}/../tests/fixtures/hf/{case}", env!("CARGO_MANIFEST_DIR")))
}

/// Copies the fixture's model with a tokenizer to `dir`.
fn model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for name in [CONFIG, WEIGHTS] {
        fs::copy(fixture("llava_clip_llama").join(name), dir.join(name)).unwrap();
    }
    let tokenizer = include_bytes!("../../../engine/data/tokenizers/mistral_2k/tokenizer.json");
    fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
}

fn config(dir: &Path, change: impl FnOnce(&mut Value)) {
    let mut config: Value = serde_json::from_slice(&fs::read(dir.join(CONFIG)).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.join(CONFIG), config.to_string()).unwrap();
}

/// A tensor of a safetensors file.
struct Stored {
    name: String,
    /// Its entry in the header.
    info: Value,
    bytes: Vec<u8>,
}

/// Returns the tensors of a safetensors file.
fn stored(file: &Path) -> Vec<Stored> {
    let bytes = fs::read(file).unwrap();
    let len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let (header, data) = bytes[8..].split_at(len);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, info)| {
        let at = |index: usize| usize::try_from(info["data_offsets"][index].as_u64().unwrap()).unwrap();
        let bytes = data[at(0)..at(1)].to_vec();
        Stored { name, info, bytes }
    });
    tensors.collect()
}

/// Writes the tensors that have a new name by `rename`.
fn write_tensors(from: &Path, to: &Path, rename: impl Fn(&str) -> Option<String>) {
    let renamed = stored(from).into_iter().filter_map(|tensor| {
        let name = rename(&tensor.name)?;
        Some(Stored { name, ..tensor })
    });
    write(to, renamed);
}

fn write(to: &Path, tensors: impl Iterator<Item = Stored>) {
    let (mut head, mut body) = (Map::new(), Vec::new());
    for Stored { name, mut info, bytes } in tensors {
        let first = body.len();
        body.extend(bytes);
        info["data_offsets"] = json!([first, body.len()]);
        head.insert(name, info);
    }
    let head = Value::Object(head).to_string();
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head.as_bytes());
    bytes.extend(body);
    fs::write(to, bytes).unwrap();
}

/// Runs `import` with further arguments. Returns exit code, standard output and standard error.
fn import(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<_> = ["import"].iter().chain(arguments).copied().collect();
    let cache = dir.join("models").display().to_string();
    let (code, stdout, stderr, _dir) = Program::new("", &arguments).env(&[("NEMO_MODELS_CACHE", &cache)]).run();
    (code, stdout, stderr)
}

/// Returns the entries of the model cache, without locks.
fn imported_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("models")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[test]
fn whole_models_in_every_layout_are_imported() {
    type Make = fn(&Path);
    let cases: &[(&str, Make)] = &[
        ("whole", model),
        // The names of transformers 4.52 to 4.57.
        ("newer", |dir| {
            model(dir);
            write_tensors(&fixture("llava_clip_llama").join(WEIGHTS), &dir.join(WEIGHTS), |name| {
                Some(match name.strip_prefix("language_model.") {
                    Some(rest) => rest
                        .strip_prefix("model.")
                        .map_or_else(|| rest.to_owned(), |rest| format!("model.language_model.{rest}")),
                    None => format!("model.{name}"),
                })
            });
        }),
        ("shards", |dir| {
            model(dir);
            fs::remove_file(dir.join(WEIGHTS)).unwrap();
            let whole = fixture("llava_clip_llama").join(WEIGHTS);
            let shard = |name: &str| {
                if name.starts_with("vision") {
                    "b.safetensors"
                } else {
                    "a.safetensors"
                }
            };
            for file in ["a.safetensors", "b.safetensors"] {
                write_tensors(&whole, &dir.join(file), |name| (shard(name) == file).then(|| name.to_owned()));
            }
            let map: Map<String, Value> = stored(&whole)
                .iter()
                .map(|tensor| (tensor.name.clone(), json!(shard(&tensor.name))))
                .collect();
            fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
        }),
    ];
    for (name, make) in cases {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(name);
        make(&source);
        check(dir.path(), &source, name, "model");
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
    write_tensors(&fixture(case).join(WEIGHTS), &dir.join(WEIGHTS), |name| {
        name.strip_prefix(prefix).map(str::to_owned)
    });
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
    write(&source.join(WEIGHTS), tensors.into_iter());
    check(dir.path(), &source, "InternViT", "vision encoder");
}

fn check(dir: &Path, source: &Path, name: &str, kind: &str) {
    fs::write(source.join("pytorch_model.bin"), "a pickle").unwrap();
    let text = source.display().to_string();
    let (code, stdout, stderr) = import(dir, &[&text, "--output", "json"]);
    assert_eq!(code, 0, "{name}: {stdout}{stderr}");
    let imported: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(imported["kind"], kind);
    assert_eq!(imported["address"], format!("nemo://{name}"));
    let target = dir.join("models").join(name);
    assert_eq!(imported["path"], target.display().to_string());
    assert!(!target.join("pytorch_model.bin").exists());
    for entry in fs::read_dir(&target).unwrap().map(|entry| entry.unwrap()) {
        assert_eq!(fs::read(entry.path()).unwrap(), fs::read(source.join(entry.file_name())).unwrap());
    }
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
    assert_eq!(imported_names(dir), [name]);
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
            &["neither model.safetensors nor", "pickles"],
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
            &["it ends within its header"],
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
fn leftovers_are_removed_and_another_target_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    let stage = dir.path().join("there/.mine.importing");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("half"), "").unwrap();
    let out = dir.path().join("there/mine");
    let (code, stdout, stderr) = import(dir.path(), &[source.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(out.to_str().unwrap()) && !stdout.contains("nemo://"), "{stdout}");
    assert!(!stage.exists() && out.join(WEIGHTS).is_file() && !out.join("half").exists());
    let (code, _, stderr) = import(dir.path(), &["/nope"]);
    assert_eq!(code, i32::from(exit_class::INPUT));
    assert!(stderr.contains("there is no folder /nope"), "{stderr}");
}
