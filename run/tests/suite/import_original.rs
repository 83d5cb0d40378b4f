//! Checkpoints of the original LLaVA repository: whole, without their vision encoder, a projector alone, and adapters.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neva_schemas::exit_class;
use serde_json::{Value, json};

use crate::{
    import::{CONFIG, WEIGHTS, all_stored, fixture, hub_tensors, import, imported_names},
    tensor_files::{Stored, pickle, write},
};

/// Rows of the vocabulary without `<image>` and `<pad>`.
const ROWS: usize = 2046;
/// Width of the model.
const WIDTH: usize = 64;

/// Returns the original repository's name.
fn original(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("language_model.") {
        return rest.to_owned();
    }
    if let Some(rest) = name.strip_prefix("multi_modal_projector.linear_") {
        let (number, rest) = rest.split_once('.').unwrap();
        return format!("model.mm_projector.{}.{rest}", 2 * (number.parse::<usize>().unwrap() - 1));
    }
    format!("model.vision_tower.{name}")
}

/// Returns the tensors of the fixture under these names, with a vocabulary without `<image>` and `<pad>`.
fn tensors() -> Vec<Stored> {
    let convert = |mut tensor: Stored| {
        if tensor.shape().first() == Some(&2048) {
            tensor.bytes.truncate(ROWS * WIDTH * 4);
            tensor.info["shape"][0] = json!(ROWS);
        }
        tensor.name = original(&tensor.name);
        tensor
    };
    hub_tensors().into_iter().map(convert).collect()
}

/// Returns the tensors that an import must give: each new row is the mean of the others.
fn expected() -> Vec<Stored> {
    let extend = |mut tensor: Stored| {
        if tensor.shape().first() == Some(&2048) {
            let values = tensor.values();
            let mean = (0..WIDTH).map(|column| {
                let sum: f64 = (0..ROWS).map(|row| f64::from(values[row * WIDTH + column])).sum();
                (sum / ROWS as f64) as f32
            });
            let mean: Vec<u8> = mean.flat_map(f32::to_le_bytes).collect();
            tensor.bytes.truncate(ROWS * WIDTH * 4);
            tensor.bytes.extend([mean.clone(), mean].concat());
        }
        tensor
    };
    hub_tensors().into_iter().map(extend).collect()
}

/// The config of LLaVA's own code, with the sizes of the fixture.
fn original_config(vision_tower: &str) -> Value {
    json!({
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "hidden_act": "silu", "hidden_size": WIDTH, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
        "vocab_size": ROWS, "tie_word_embeddings": false, "torch_dtype": "float32",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "image_aspect_ratio": "pad", "mm_hidden_size": 64, "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": false, "mm_use_im_start_end": false,
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": vision_tower,
        "tune_mm_mlp_adapter": false, "use_mm_proj": true, "freeze_mm_mlp_adapter": false,
    })
}

/// Folders of a test: the checkpoint, a CLIP, and a language model.
struct Folders {
    dir: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let folders = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in ["llava", "clip", "vicuna"] {
            fs::create_dir_all(folders.path(name)).unwrap();
        }
        let fixture: Value = serde_json::from_slice(&fs::read(fixture("llava_clip_llama").join(CONFIG)).unwrap()).unwrap();
        folders.json("clip", CONFIG, &fixture["vision_config"]);
        let vision = hub_tensors().into_iter().filter_map(|tensor| {
            let name = tensor.name.strip_prefix("vision_tower.")?.to_owned();
            Some(Stored { name, ..tensor })
        });
        write(&folders.path("clip").join(WEIGHTS), vision);
        let mut text = fixture["text_config"].clone();
        text["vocab_size"] = json!(ROWS);
        folders.json("vicuna", CONFIG, &text);
        folders.language_model("vicuna", |_| true);
        folders.tokenizer("vicuna");
        folders.json("llava", CONFIG, &original_config("../clip"));
        folders
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn json(&self, folder: &str, name: &str, value: &Value) {
        fs::write(self.path(folder).join(name), value.to_string()).unwrap();
    }

    fn pickle(&self, folder: &str, name: &str, tensors: &[Stored]) {
        fs::write(self.path(folder).join(name), pickle(tensors)).unwrap();
    }

    fn language_model(&self, folder: &str, keep: impl Fn(&str) -> bool) {
        let tensors = tensors().into_iter().filter(|tensor| !tensor.name.contains("mm_projector"));
        let tensors = tensors.filter(|tensor| !tensor.name.contains("vision_tower") && keep(&tensor.name));
        write(&self.path(folder).join(WEIGHTS), tensors);
    }

    /// Writes a tokenizer without `<image>` and `<pad>`.
    fn tokenizer(&self, folder: &str) {
        let bytes = include_bytes!("../../../engine/data/tokenizers/mistral_2k/tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(bytes).unwrap();
        tokenizer["added_tokens"].as_array_mut().unwrap().truncate(3);
        self.json(folder, "tokenizer.json", &tokenizer);
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "legacy": false});
        self.json(folder, "tokenizer_config.json", &config);
    }

    fn import(&self, arguments: &[&str]) -> (i32, String, String) {
        let source = self.path("llava").display().to_string();
        let arguments: Vec<_> = [source.as_str()].iter().chain(arguments).copied().collect();
        import(self.dir.path(), &arguments)
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], expected: &[Stored]) {
        let (code, stdout, stderr) = self.import(arguments);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("imported: model (llava)"), "{stdout}");
        let target = self.path("models/llava");
        let found = all_stored(&target);
        let names = |tensors: &[Stored]| tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(expected));
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.info, expected.info, "{}", found.name);
            assert!(found.bytes == expected.bytes, "{} has other values", found.name);
        }
        self.check_files(&target);
        // It is a model in the hub's form.
        let (code, stdout, stderr) = import(self.dir.path(), &[target.to_str().unwrap(), "--output", "json"]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["reused"], true);
    }

    fn check_files(&self, target: &Path) {
        let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(target.join(name)).unwrap()).unwrap();
        let config = read(CONFIG);
        for (name, value) in [
            ("model_type", json!("llava")),
            ("image_token_index", json!(2046)),
            ("pad_token_id", json!(2047)),
            ("vision_feature_layer", json!(-2)),
            ("vision_feature_select_strategy", json!("default")),
        ] {
            assert_eq!(config[name], value, "{name}");
        }
        assert_eq!(
            (&config["text_config"]["vocab_size"], &config["vision_config"]["patch_size"]),
            (&json!(2048), &json!(14))
        );
        assert_eq!(read("preprocessor_config.json")["crop_size"]["height"], 56);
        let tokenizer = neva_data::Tokenizer::open(target.to_str().unwrap()).unwrap();
        assert_eq!((tokenizer.special().image, tokenizer.special().pad), (Some(2046), Some(2047)));
        assert_eq!(tokenizer.image_token_problem(2046), None);
    }
}

#[test]
fn whole_checkpoints() {
    type Make = fn(&Folders);
    let cases: &[Make] = &[
        |folders| folders.pickle("llava", "pytorch_model.bin", &tensors()),
        |folders| write(&folders.path("llava").join(WEIGHTS), tensors()),
        // Without a vision encoder, which is the CLIP that the config names, and with a copy of the projector.
        |folders| {
            let without: Vec<_> = tensors()
                .into_iter()
                .filter(|tensor| !tensor.name.contains("vision_tower"))
                .collect();
            let (projector, _): (Vec<_>, Vec<_>) = without.iter().cloned().partition(|tensor| tensor.name.contains("mm_projector"));
            folders.pickle("llava", "pytorch_model.bin", &without);
            folders.pickle("llava", "mm_projector.bin", &projector);
        },
    ];
    for make in cases {
        let folders = Folders::new();
        folders.tokenizer("llava");
        make(&folders);
        folders.check(&[], &expected());
    }
}

#[test]
fn a_projector_alone() {
    let folders = Folders::new();
    let mut projector = tensors();
    projector.retain(|tensor| tensor.name.contains("mm_projector"));
    folders.pickle("llava", "mm_projector.bin", &projector);
    let vicuna = folders.path("vicuna").display().to_string();
    folders.check(&["--base", &vicuna], &expected());
    // Named by the config.
    let folders = Folders::new();
    folders.pickle("llava", "mm_projector.bin", &projector);
    let mut config = original_config("../clip");
    config["_name_or_path"] = json!("../vicuna");
    folders.json("llava", CONFIG, &config);
    folders.check(&[], &expected());
}

#[test]
fn adapters_are_merged() {
    const RANK: usize = 4;
    let folders = Folders::new();
    let mut expected = expected();
    let mut adapters = Vec::new();
    for (name, rows, width) in [("0.self_attn.q_proj", 64, 64), ("1.mlp.up_proj", 160, 64)] {
        let values =
            |seed: usize, count: usize| -> Vec<f32> { (0..count).map(|at| ((at * 37 + seed) % 13) as f32 / 16.0 - 0.375).collect() };
        let (a, b) = (values(rows, RANK * width), values(width, rows * RANK));
        let linear = format!("base_model.model.model.layers.{name}");
        adapters.push(Stored::f32(&format!("{linear}.lora_A.weight"), &[RANK, width], &a));
        adapters.push(Stored::f32(&format!("{linear}.lora_B.weight"), &[rows, RANK], &b));
        let own = format!("language_model.model.layers.{name}.weight");
        let tensor = expected.iter_mut().find(|tensor| tensor.name == own).unwrap();
        let mut merged = tensor.values();
        for row in 0..rows {
            for column in 0..width {
                let product: f32 = (0..RANK).map(|rank| b[row * RANK + rank] * a[rank * width + column]).sum();
                // alpha / r
                merged[row * width + column] += 2.0 * product;
            }
        }
        tensor.bytes = merged.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    folders.pickle("llava", "adapter_model.bin", &adapters);
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none", "base_model_name_or_path": "../vicuna"});
    folders.json("llava", "adapter_config.json", &config);
    let mut trained = tensors();
    trained.retain(|tensor| tensor.name.contains("mm_projector"));
    for tensor in &mut trained {
        tensor.name = format!("base_model.model.{}", tensor.name);
    }
    folders.pickle("llava", "non_lora_trainables.bin", &trained);
    let vicuna = folders.path("vicuna").display().to_string();
    folders.check(&["--base", &vicuna], &expected);
}

#[test]
fn what_is_missing_or_not_supported_is_said() {
    type Make = fn(&Folders);
    fn with(change: fn(&mut Value)) -> impl Fn(&Folders) {
        move |folders| {
            folders.tokenizer("llava");
            folders.pickle("llava", "pytorch_model.bin", &tensors());
            let mut config = original_config("../clip");
            change(&mut config);
            folders.json("llava", CONFIG, &config);
        }
    }
    let projector: Make = |folders| {
        let mut projector = tensors();
        projector.retain(|tensor| tensor.name.contains("mm_projector"));
        folders.pickle("llava", "mm_projector.bin", &projector);
    };
    let no_vision: Make = |folders| {
        folders.tokenizer("llava");
        let without: Vec<_> = tensors()
            .into_iter()
            .filter(|tensor| !tensor.name.contains("vision_tower"))
            .collect();
        folders.pickle("llava", "pytorch_model.bin", &without);
        folders.json("llava", CONFIG, &original_config("openai/clip-vit-large-patch14-336"));
    };
    let no_tokenizer: Make = |folders| folders.pickle("llava", "pytorch_model.bin", &tensors());
    let no_layer: Make = |folders| {
        folders.tokenizer("llava");
        let mut tensors = tensors();
        tensors.retain(|tensor| !tensor.name.contains("layers.1.mlp.up"));
        folders.pickle("llava", "pytorch_model.bin", &tensors);
    };
    let anyres = with(|config| config["image_aspect_ratio"] = json!("anyres"));
    let around = with(|config| config["mm_use_im_start_end"] = json!(true));
    let mpt = with(|config| {
        config["model_type"] = json!("llava_mpt");
        config["architectures"] = json!(["LlavaMptForCausalLM"]);
    });
    let qformer = with(|config| config["mm_projector_type"] = json!("qformer"));
    let sizes = with(|config| config["intermediate_size"] = json!(128));
    type Case<'a> = (&'a dyn Fn(&Folders), &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&projector, &["needs the model `lmsys/vicuna-7b-v1.5`", "--base DIR"]),
        (
            &no_vision,
            &["needs the model `openai/clip-vit-large-patch14-336`", "--vision-tower DIR"],
        ),
        (&no_tokenizer, &["no tokenizer"]),
        (&no_layer, &["layers.1.mlp.up_proj.weight` [160, 64] is missing"]),
        (&anyres, &["LLaVA-1.6"]),
        (&around, &["`mm_use_im_start_end` is true"]),
        (&mpt, &["`model_type` is \"llava_mpt\""]),
        (&qformer, &["`mm_projector_type` is \"qformer\""]),
        (&sizes, &["has shape [64, 160], but its config says [64, 128]"]),
    ];
    for (make, words) in cases {
        let folders = Folders::new();
        make(&folders);
        let source = folders.path("llava").display().to_string();
        let cache = folders.path("models").display().to_string();
        let home = folders.path("home").display().to_string();
        let environment = [("NEMO_MODELS_CACHE", cache.as_str()), ("HF_HOME", &home), ("HF_HUB_OFFLINE", "1")];
        let (code, _, stderr, _dir) = crate::process::Program::new("", &["import", &source])
            .without(&["HF_HUB_CACHE"])
            .env(&environment)
            .run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{words:?}: {stderr}");
        let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in *words {
            assert!(flat.contains(word), "{word}: {flat}");
        }
        assert_eq!(imported_names(folders.dir.path()), Vec::<String>::new());
    }
}
