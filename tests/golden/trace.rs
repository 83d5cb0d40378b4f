//! A trace of Hugging Face's optimizer steps, and its recipe file.

use neva_engine::checkpoint::TensorFile;
use neva_layout::from_hf_config;
use neva_run::config::{Origin, to_json, to_node, to_yaml_string};
use neva_schemas::Model;
use neva_tests::{HF_BATCHES, root};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// PEFT's name of the wrapped model.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";

/// Names of bases that this program refuses, because their families are not supported yet. A test fails if another base
/// is refused, or one of these is not.
const REFUSED: &[&str] = &[];

/// A folder with `trace.json`, next to its base and `train_batches.safetensors`.
pub(crate) struct Trace {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// `trace.json`.
    pub(crate) json: Value,
}

/// Ranks of a run.
#[derive(Clone, Copy)]
pub(crate) struct Ranks {
    pub(crate) data: usize,
    pub(crate) tensor: usize,
}

impl Trace {
    /// Returns the project's traces and those in the folder `NEVA_GOLDEN_DIR`.
    pub(crate) fn all() -> Vec<Self> {
        let more = std::env::var_os("NEVA_GOLDEN_DIR").map(PathBuf::from);
        let mut traces = Vec::new();
        for folder in std::iter::once(root().join("tests/fixtures/hf")).chain(more) {
            // Absolute, because processes are started in another folder.
            let folder = std::path::absolute(folder).unwrap();
            let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            folders.retain(|folder| folder.join("trace.json").is_file());
            folders.sort();
            traces.extend(folders.into_iter().map(|folder| Self {
                json: read(&folder.join("trace.json")),
                folder,
            }));
        }
        traces
    }

    pub(crate) fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Returns the folder of the initial weights.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.with_file_name(self.json["base"].as_str().unwrap())
    }

    /// Returns its optimizer steps.
    pub(crate) fn steps(&self) -> &[Value] {
        self.json["steps"].as_array().unwrap()
    }

    /// Returns true if it trains adapters.
    pub(crate) fn is_lora(&self) -> bool {
        self.folder.join("adapter_init").is_dir()
    }

    /// Returns true if the base is one of [`REFUSED`].
    pub(crate) fn is_refused(&self) -> bool {
        let base = self.base();
        let name = base.file_name().unwrap().to_string_lossy();
        let listed = REFUSED.contains(&&*name);
        match from_hf_config(&read(&base.join("config.json"))) {
            Ok(_) if listed => panic!("{name} is no longer refused: take it off the list of refused bases"),
            Err(reason) if !listed => panic!("{}: the base {name} is refused: {reason}", self.name()),
            _ => listed,
        }
    }

    /// Returns the recipe of the trace.
    pub(crate) fn recipe(&self, dir: &Path, ranks: Ranks) -> String {
        let steps = self.steps().len();
        let (rows, longest) = self.batches();
        let mut finetune = json!({
            "model": self.model(),
            "data": {
                "_target_": HF_BATCHES,
                "path": self.batches_file(),
                "seq_length": longest,
                "global_batch_size": rows,
                "micro_batch_size": rows / ranks.data,
                "num_workers": 0,
                "shuffle": false,
            },
            "trainer": {
                "accelerator": "cpu",
                "threads_per_rank": 1,
                "max_steps": steps,
                "val_check_interval": steps,
                "limit_val_batches": null,
                "strategy": { "tensor_model_parallel_size": ranks.tensor },
            },
            "optim": self.optim(),
            "resume": { "restore_config": { "path": self.base() } },
        });
        if self.is_lora() {
            finetune["peft"] = self.peft();
            finetune["resume"]["adapter_path"] = json!(self.folder.join("adapter_init"));
        }
        let recipe = json!({
            "_factory_": "neva_tiny",
            "dir": dir,
            "name": self.name(),
            "num_gpus_per_node": ranks.data * ranks.tensor,
            "peft_scheme": if self.is_lora() { "lora" } else { "none" },
            "finetune": finetune,
        });
        to_yaml_string(&to_node(&recipe, Origin::recipe("golden")).unwrap())
    }

    fn batches_file(&self) -> PathBuf {
        self.folder.with_file_name("train_batches.safetensors")
    }

    /// Returns the number of rows per batch and the number of positions of the widest.
    fn batches(&self) -> (usize, usize) {
        let tensors = TensorFile::open(&self.batches_file()).unwrap().tensors();
        let shapes: Vec<_> = tensors
            .into_iter()
            .filter(|(name, _)| name.ends_with(".input_ids"))
            .map(|(_, shape)| shape)
            .collect();
        let rows: BTreeSet<_> = shapes.iter().map(|shape| shape[0]).collect();
        assert_eq!(rows.len(), 1, "batches of {rows:?} rows");
        (shapes[0][0], shapes.iter().map(|shape| shape[1]).max().unwrap())
    }

    fn model(&self) -> Value {
        let mut model = from_hf_config(&read(&self.base().join("config.json"))).unwrap();
        model.freeze_vision_model = self.json["frozen"] == "vision_tower";
        model.freeze_vision_projection = self.is_lora() && !self.saved_names().iter().any(|name| is_projector(name));
        to_json(&to_node(&Model::Llava(model), Origin::recipe("golden")).unwrap())
    }

    /// Returns the optimizer config, from the trace's description.
    fn optim(&self) -> Value {
        let words = self.json["optimizer"].as_str().unwrap();
        let betas: Vec<f64> = after(words, "betas ").split(',').map(|beta| beta.parse().unwrap()).collect();
        let mut optim = json!({
            "_target_": "optim.AdamW",
            "lr": number(words, "lr "),
            "weight_decay": number(words, "wd "),
            "betas": betas,
            "eps": number(words, "eps "),
            "clip_grad": self.json["clip"].as_f64().unwrap_or(0.0),
            "lr_scheduler": schedule(self.json["schedule"].as_str().unwrap()),
        });
        let mut groups = Vec::new();
        if let Some((_, group)) = words.split_once("group1 ") {
            let (lr, decay) = (number(group, "lr "), number(group, "wd "));
            let module = group.split(' ').next().unwrap();
            groups.push(json!({ "params": [format!("*{module}*")], "lr": lr, "weight_decay": decay }));
        }
        if self.is_lora() {
            // The traces' groups do not leave out vectors.
            groups.push(json!({ "params": ["*lora_magnitude_vector"], "weight_decay": number(words, "wd ") }));
        }
        optim["param_groups"] = json!(groups);
        optim
    }

    fn peft(&self) -> Value {
        let config = read(&self.folder.join("adapter_init/adapter_config.json"));
        let linears = self
            .saved_names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(".lora_A.weight").map(str::to_owned));
        let pattern = |linear: String| match linear.strip_prefix(PEFT_PREFIX).unwrap().split('.').collect::<Vec<_>>()[..] {
            [_, tower, .., last] => format!("*.{tower}.*.{last}"),
            _ => panic!("{linear} has an adapter"),
        };
        json!({
            "target_modules": linears.map(pattern).collect::<BTreeSet<_>>(),
            "dim": config["r"],
            "alpha": config["lora_alpha"],
            "use_rslora": config["use_rslora"],
            "use_dora": config["use_dora"],
            "rank_pattern": config["rank_pattern"],
            "alpha_pattern": config["alpha_pattern"],
            "modules_to_save": config["modules_to_save"].as_array().cloned().unwrap_or_default(),
            "freeze_vision_model": true,
        })
    }

    /// Returns the names of the tensors in the trace's initial adapter.
    fn saved_names(&self) -> Vec<String> {
        let file = TensorFile::open(&self.folder.join("adapter_init/adapter_model.safetensors")).unwrap();
        file.tensors().into_keys().collect()
    }
}

fn is_projector(name: &str) -> bool {
    name.contains("multi_modal_projector") && !name.contains(".lora_")
}

fn schedule(words: &str) -> Value {
    let warmup = || number(&words.replace("warmup=", "warmup "), "(warmup ");
    match words.split('(').next().unwrap() {
        "constant" => json!({ "_target_": "Constant" }),
        "get_cosine_schedule_with_warmup" => json!({ "_target_": "CosineWithWarmup", "warmup_steps": warmup() as u64 }),
        "get_linear_schedule_with_warmup" => json!({ "_target_": "LinearWithWarmup", "warmup_steps": warmup() as u64 }),
        other => panic!("the schedule {other} is not known"),
    }
}

/// Returns the word after `key`, up to the next space.
fn after<'a>(words: &'a str, key: &str) -> &'a str {
    let rest = words.split_once(key).unwrap_or_else(|| panic!("no {key:?} in {words:?}")).1;
    rest.split_whitespace().next().unwrap()
}

/// Parses the number after `key`: `1e-3`, `.01`.
fn number(words: &str, key: &str) -> f64 {
    let word = after(words, key).split([',', ';', ')']).next().unwrap();
    word.parse().unwrap_or_else(|_| panic!("{key}{word} is no number"))
}

pub(crate) fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}
