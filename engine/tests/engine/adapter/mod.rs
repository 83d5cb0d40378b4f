//! PEFT adapters: every spelling of names, and every kind of damage.

mod refusals;

use crate::setting::{ONE, copy, difference, no_cache, on_mesh, rewrite, run, tiny, whole, within_limit};
use neva_engine::Result;
use neva_engine::checkpoint::{Adapter, Base, Sources, TensorFile};
use neva_engine::comm::Mesh;
use neva_engine::model::Models;
use neva_engine::trainer::LoadedModel;
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, LoRA, Model, ParallelSizes, Peft, RestoreConfig};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::Device;

const PREFIX: &str = "base_model.model.";

/// The linears of the fixture's adapters.
const LINEARS: [&str; 7] = ["k_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn targets(linears: &[&str]) -> Vec<String> {
    linears.iter().map(|linear| format!("*.language_model.*.{linear}")).collect()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf")
}

/// Copies the fixture's adapter and projector to `parent`.
fn folder(parent: &Path) -> PathBuf {
    let folder = parent.join("adapter");
    copy(&fixtures().join("train_lora_proj/adapter_init"), &folder);
    folder
}

/// Returns a run that starts from an adapter of the fixture's base.
fn finetune(adapter: &Path) -> Finetune {
    let base = fixtures().join("llava_clip_llama_gqa");
    let config: Value = serde_json::from_slice(&std::fs::read(base.join("config.json")).unwrap()).unwrap();
    let mut finetune = tiny();
    finetune.model = Model::Llava(from_hf_config(&config).unwrap());
    finetune.peft = Some(Peft::LoRA(LoRA {
        target_modules: targets(&LINEARS),
        dim: 8,
        alpha: 16.0,
        freeze_vision_model: true,
        ..LoRA::default()
    }));
    finetune.resume.restore_config = Some(RestoreConfig::weights(base.display().to_string()));
    finetune.resume.adapter_path = Some(adapter.to_owned());
    finetune
}

fn lora(finetune: &mut Finetune) -> &mut LoRA {
    let Some(Peft::LoRA(lora)) = &mut finetune.peft else {
        unreachable!("the run has adapters")
    };
    lora
}

fn load(finetune: &Finetune, mesh: &Mesh) -> Result<LoadedModel> {
    let adapter = Adapter::open(finetune.resume.adapter_path.as_deref().unwrap())?;
    let (base, cache) = (Base::of(finetune, &no_cache())?, no_cache());
    adapter.verify(&base.reference()?)?;
    let sources = Sources {
        checkpoint: None,
        adapter: Some(&adapter),
        base: &base,
        cache: &cache,
    };
    LoadedModel::load(finetune, &Models::builtin(), sources, mesh, Device::Cpu)
}

/// Checks that every tensor of the folder is its parameter's value.
fn check_loaded(finetune: &Finetune, folder: &Path, sizes: ParallelSizes) {
    let original = TensorFile::open(&fixtures().join("train_lora_proj/adapter_init/adapter_model.safetensors")).unwrap();
    assert_eq!(original.tensors().len(), 46);
    on_mesh(sizes, |mesh| {
        let loaded = load(finetune, &mesh).unwrap();
        for key in original.tensors().into_keys() {
            let parameter = loaded.parameters.get(key.strip_prefix(PREFIX).unwrap()).unwrap();
            let value = whole(parameter, &parameter.tensor.detach(), &mesh);
            assert_eq!(
                difference(&value, &original.read(&key, None).unwrap()),
                0.0,
                "{key} of {}",
                folder.display()
            );
        }
    });
}

#[test]
fn adapters_and_saved_modules_are_read_in_every_spelling_and_layout() {
    within_limit(|| {
        let spellings: [fn(&str) -> String; 3] = [
            str::to_owned,
            // transformers' files, and its models before 5.0.
            |name| {
                name.replacen("model.language_model.", "language_model.model.", 1)
                    .replacen("model.multi_modal", "multi_modal", 1)
            },
            |name| name.replacen("model.", "", 1),
        ];
        for spelling in spellings {
            let parent = tempfile::tempdir().unwrap();
            let folder = folder(parent.path());
            rewrite(&folder.join("adapter_model.safetensors"), |tensors| {
                for (name, _) in tensors {
                    *name = format!("{PREFIX}{}", spelling(name.strip_prefix(PREFIX).unwrap()));
                }
            });
            let finetune = finetune(&folder);
            check_loaded(&finetune, &folder, ONE);
            check_loaded(&finetune, &folder, ParallelSizes { tp: 2, ..ONE });
        }
    });
}

/// `adapter_model.bin` is the `torch.save` of the tensors in `adapter_init`.
#[test]
fn a_pickle_is_read_as_the_safetensors() {
    within_limit(|| {
        let parent = tempfile::tempdir().unwrap();
        let folder = folder(parent.path());
        std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
        std::fs::copy(
            fixtures().join("train_lora_proj/adapter_model.bin"),
            folder.join("adapter_model.bin"),
        )
        .unwrap();
        let finetune = finetune(&folder);
        check_loaded(&finetune, &folder, ONE);
        check_loaded(&finetune, &folder, ParallelSizes { tp: 2, ..ONE });
    });
}

#[test]
fn a_run_that_starts_from_peft_resumes_from_its_own_checkpoint() {
    within_limit(|| {
        let parent = tempfile::tempdir().unwrap();
        let mut finetune = finetune(&folder(parent.path()));
        finetune.trainer.max_steps = Some(1);
        let first = run(&finetune, &parent.path().join("first")).unwrap().checkpoint.unwrap();
        // The checkpoint is itself an adapter, and knows its base.
        finetune.resume.adapter_path = Some(first.clone());
        let loaded = load(&finetune, &Mesh::single()).unwrap();
        let saved = TensorFile::open(&first.join("model.safetensors")).unwrap();
        assert_eq!(saved.tensors().len(), 46);
        for name in saved.tensors().into_keys() {
            let value = &loaded.parameters.get(&name).unwrap().tensor;
            assert_eq!(difference(value, &saved.read(&name, None).unwrap()), 0.0, "{name}");
        }
        finetune.resume.restore_config = Some(RestoreConfig::weights(fixtures().join("llava_clip_llama").display().to_string()));
        let error = load(&finetune, &Mesh::single()).unwrap_err().to_string();
        assert!(
            error.contains("finetune.resume.adapter_path") && error.contains("was trained on"),
            "{error}"
        );
    });
}
