//! Writes the cases of `make gpu-check`: recipes of Hugging Face's traces and batches, and the expected numbers.
//! Recipes contain `@ROOT@` for the repository's root.
#![expect(clippy::unwrap_used, reason = "a broken fixture ends it, with its name")]
#![expect(clippy::print_stderr, reason = "the program's own usage")]

mod trace;

use neva_engine::checkpoint::{TensorFile, write_tensors};
use neva_layout::from_hf_config;
use neva_run::config::{Origin, to_json, to_node, to_yaml_string};
use neva_schemas::Model;
use neva_tests::{HF_BATCHES, root};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use trace::{Ranks, Trace, read};

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1) else {
        eprintln!("usage: golden-cases FOLDER");
        return ExitCode::from(2);
    };
    let out = Path::new(&out);
    std::fs::create_dir_all(out).unwrap();
    let fixtures = root().join("tests/fixtures/hf");
    let mut cases: Vec<Value> = Trace::all().iter().filter_map(trace_case).collect();
    let mut folders: Vec<_> = std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    cases.extend(folders.iter().filter_map(|folder| batch_case(folder, out)));
    std::fs::write(out.join("cases.json"), serde_json::to_vec_pretty(&cases).unwrap()).unwrap();
    ExitCode::SUCCESS
}

/// Returns the case of a trace's optimizer steps, on one rank.
fn trace_case(trace: &Trace) -> Option<Value> {
    let one = Ranks { data: 1, tensor: 1 };
    if trace.is_refused() {
        return None;
    }
    let each = |key: &str| trace.steps().iter().map(|step| step[key].clone()).collect::<Vec<_>>();
    Some(json!({
        "name": trace.name(),
        "recipe": portable(&trace.recipe(Path::new("@RUNS@"), one)),
        "losses": each("loss"),
        "grad_norms": each("grad_norm_before_clip"),
    }))
}

/// Returns the case of loss and gradient norm of a folder's batch, if it has one.
fn batch_case(folder: &Path, out: &Path) -> Option<Value> {
    let golden = folder.join("golden.json").is_file().then(|| read(&folder.join("golden.json")))?;
    let model = from_hf_config(&read(&folder.join("config.json"))).ok()?;
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let file = TensorFile::open(&folder.join("golden.safetensors")).unwrap();
    let keys = ["input_ids", "attention_mask", "labels", "pixel_values"];
    let tensors = keys.map(|key| (format!("batch0.{key}"), file.read(key, None).unwrap()));
    let [rows, longest] = <[i64; 2]>::try_from(tensors[0].1.size()).unwrap();
    write_tensors(&out.join(format!("{name}.safetensors")), tensors.into()).unwrap();
    let squares = golden["grad_l2"].as_object().unwrap().values().filter_map(Value::as_f64);
    let recipe = json!({
        "_factory_": "neva_tiny",
        "dir": "@RUNS@",
        "name": name,
        "num_gpus_per_node": 1,
        "peft_scheme": "none",
        "finetune": {
            "model": to_json(&to_node(&Model::Llava(model), Origin::recipe("golden")).unwrap()),
            "data": {
                "_target_": HF_BATCHES,
                "path": format!("@CASES@/{name}.safetensors"),
                "seq_length": longest,
                "global_batch_size": rows,
                "micro_batch_size": rows,
                "num_workers": 0,
                "shuffle": false,
            },
            "trainer": { "max_steps": 1, "val_check_interval": null },
            "optim": { "lr_scheduler": { "_target_": "Constant" } },
            "resume": { "restore_config": { "path": folder } },
        },
    });
    Some(json!({
        "name": name,
        "recipe": portable(&to_yaml_string(&to_node(&recipe, Origin::recipe("golden")).unwrap())),
        "losses": [golden["loss"]],
        "grad_norms": [squares.map(|norm| norm * norm).sum::<f64>().sqrt()],
        "bf16_losses": [golden["loss_bf16"]],
    }))
}

/// Replaces the repository's root in the recipe.
fn portable(recipe: &str) -> String {
    let root = std::path::absolute(root()).unwrap();
    recipe.replace(&root.display().to_string(), "@ROOT@")
}
