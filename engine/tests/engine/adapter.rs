//! Adapters that Hugging Face's PEFT wrote, in every spelling, and in every state of disrepair.

use crate::setting::{ONE, copy, difference, no_cache, on_mesh, rewrite, run, tiny, whole, within_limit};
use neva_engine::checkpoint::{Adapter, Base, Sources, TensorFile};
use neva_engine::comm::Mesh;
use neva_engine::trainer::LoadedModel;
use neva_engine::{EngineError, Result};
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, LoRA, Model, ParallelSizes, Peft, RestoreConfig, exit_class};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const PREFIX: &str = "base_model.model.";

/// The linears of the fixture's adapters.
const LINEARS: [&str; 7] = ["k_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn targets(linears: &[&str]) -> Vec<String> {
    linears.iter().map(|linear| format!("*.language_model.*.{linear}")).collect()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf")
}

/// A copy of the fixture's adapter and projector, in `parent`.
fn folder(parent: &Path) -> PathBuf {
    let folder = parent.join("adapter");
    copy(&fixtures().join("train_lora_proj/adapter_init"), &folder);
    folder
}

/// A run that starts from an adapter of the fixture's base.
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
    LoadedModel::load(finetune, sources, mesh, Device::Cpu)
}

/// Every tensor of the folder is its parameter's value.
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

#[test]
fn a_run_that_starts_from_peft_goes_on_from_its_own_checkpoint() {
    within_limit(|| {
        let parent = tempfile::tempdir().unwrap();
        let mut finetune = finetune(&folder(parent.path()));
        finetune.trainer.max_steps = Some(1);
        let first = run(&finetune, &parent.path().join("first")).unwrap().checkpoint.unwrap();
        // The checkpoint is an adapter in turn, and knows its base.
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

/// What is said of a folder and a run after `change`.
fn refusal(change: impl FnOnce(&Path, &mut Finetune)) -> String {
    let parent = tempfile::tempdir().unwrap();
    let folder = folder(parent.path());
    let mut finetune = finetune(&folder);
    change(&folder, &mut finetune);
    let error = load(&finetune, &Mesh::single()).unwrap_err();
    assert_eq!(error.class(), exit_class::INPUT, "{error:?}");
    error.to_string().replace(&folder.display().to_string(), "DIR")
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("adapter_config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_run_with_other_adapters_is_told_all_that_it_must_set() {
    within_limit(|| {
        let said = refusal(|_, finetune| {
            let lora = lora(finetune);
            (lora.dim, lora.alpha, lora.target_modules) = (32, 32.0, LoRA::default().target_modules);
        });
        assert_eq!(
            said,
            "
    finetune.peft.dim: `dim` is 32, but the adapter in DIR has `r` 8 (--set finetune.peft.dim=8)
    finetune.peft.alpha: `alpha` is 32, but the adapter in DIR has `lora_alpha` 16 (--set finetune.peft.alpha=16)
    finetune.peft.target_modules: a fused module (`linear_qkv`, `linear_fc1`) has one A for all its linears, but the adapter in DIR has one for each (--set 'finetune.peft.target_modules=[\"*.language_model.*.down_proj\",\"*.language_model.*.gate_proj\",\"*.language_model.*.k_proj\",\"*.language_model.*.o_proj\",\"*.language_model.*.q_proj\",\"*.language_model.*.up_proj\",\"*.language_model.*.v_proj\"]')"
        );
        let said = refusal(|_, finetune| finetune.peft = None);
        assert!(
            said.starts_with("finetune.peft: the run has no adapters, but DIR holds some (--set peft_scheme=lora --set finetune.peft.dim=8 --set finetune.peft.alpha=16 --set 'finetune.peft.target_modules=["),
            "{said}"
        );
        let said = refusal(|folder, finetune| {
            finetune.resume.restore_config = None;
            edit(folder, |config| config["base_model_name_or_path"] = json!("llava-hf/tiny"));
        });
        assert_eq!(
            said,
            "finetune.resume.restore_config: the adapter in DIR does not hold the base that it goes with (`base_model_name_or_path` is \"llava-hf/tiny\") (name a folder with the weights of its base: --set finetune.resume.restore_config.path=DIR)"
        );
        let said = refusal(|folder, _| std::fs::remove_file(folder.join("adapter_config.json")).unwrap());
        assert_eq!(
            said,
            "finetune.resume.adapter_path: DIR is neither a checkpoint of this program nor a folder of PEFT (name a folder with checkpoint.json, or with adapter_config.json and adapter_model.safetensors)"
        );
        let said = refusal(|folder, _| std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap());
        assert!(said.starts_with("cannot open DIR/adapter_model.safetensors"), "{said}");
    });
}

#[test]
fn what_this_program_would_compute_otherwise_is_listed() {
    within_limit(|| {
        let said = refusal(|folder, _| {
            edit(folder, |config| {
                config["use_dora"] = json!(true);
                config["rank_pattern"] = json!({ "q_proj": 4 });
                config["layer_replication"] = json!([[0, 2]]);
                config["bias"] = json!("all");
                config["init_lora_weights"] = json!("pissa");
                config["r"] = json!("eight");
            });
        });
        assert_eq!(
            said,
            "DIR/adapter_config.json: `layer_replication` is [[0,2]], which this program does not compute; \
             `rank_pattern` is {\"q_proj\":4}, which this program does not compute; \
             `use_dora` is true, which this program does not compute; \
             `bias` is \"all\", supported: \"none\"; \
             `init_lora_weights` is \"pissa\", whose adapters go with a changed base: save with `path_initial_model_for_weight_conversion`; \
             `r` is \"eight\", expected a number"
        );
        let said = refusal(|folder, _| std::fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "IA3"}"#).unwrap());
        assert!(
            said.contains("`peft_type` is \"IA3\", supported: \"LORA\"") && said.contains("`lora_alpha` is null"),
            "{said}"
        );
        // What only chose the targets or the start is nobody's concern.
        let parent = tempfile::tempdir().unwrap();
        let folder = folder(parent.path());
        edit(&folder, |config| {
            config["init_lora_weights"] = json!("gaussian");
            config["layers_to_transform"] = json!([0, 1]);
        });
        check_loaded(&finetune(&folder), &folder, ONE);
    });
}

#[test]
fn tensors_that_do_not_fit_are_listed_at_once() {
    within_limit(|| {
        let of = |layer: usize, linear: &str| format!("{PREFIX}model.language_model.layers.{layer}.{linear}.weight");
        let error = |change: &dyn Fn(&Path, &mut Finetune)| {
            let parent = tempfile::tempdir().unwrap();
            let folder = folder(parent.path());
            let mut finetune = finetune(&folder);
            change(&folder, &mut finetune);
            match load(&finetune, &Mesh::single()).unwrap_err() {
                EngineError::Weights { path, problems } => {
                    assert_eq!(path, folder.join("adapter_model.safetensors"));
                    problems
                }
                other => panic!("{other}"),
            }
        };
        let said = error(&|folder, _| {
            rewrite(&folder.join("adapter_model.safetensors"), |tensors| {
                let fresh = || Tensor::zeros([8, 64], (Kind::Float, Device::Cpu));
                tensors.retain(|(name, _)| *name != of(0, "self_attn.q_proj.lora_B"));
                for (name, value) in tensors.iter_mut() {
                    if *name == of(1, "self_attn.v_proj.lora_A") {
                        *value = value.narrow(0, 0, 4).contiguous();
                    }
                }
                tensors.push((format!("{PREFIX}lm_head.lora_A.weight"), fresh()));
                tensors.push((of(2, "mlp.up_proj.lora_A").replace(".weight", ".bias"), fresh()));
                tensors.push((format!("{PREFIX}model.vision_tower.post_layernorm.weight"), fresh()));
                tensors.push(("model.multi_modal_projector.linear_1.weight".into(), fresh()));
            });
        });
        let q = of(0, "self_attn.q_proj.lora_B");
        let (v, up) = (
            of(1, "self_attn.v_proj.lora_A"),
            of(2, "mlp.up_proj.lora_A").replace(".weight", ".bias"),
        );
        let mut expect = vec![
            "`model.multi_modal_projector.linear_1.weight` is no tensor of an adapter of a LLaVA model".to_owned(),
            format!("`{PREFIX}model.vision_tower.post_layernorm.weight` was trained, but this run freezes it (the model never uses it)"),
            format!("`{}` [64, 8] is missing", q.strip_prefix(PREFIX).unwrap()),
            format!("`{v}` has shape [4, 64], the model needs [8, 64]"),
            format!("`{PREFIX}lm_head.lora_A.weight` [8, 64] is not in the model"),
            format!("`{up}` [8, 64] is not in the model"),
        ];
        let mut said = said;
        said.sort();
        expect.sort();
        assert_eq!(said, expect);

        let said = error(&|_, finetune| finetune.model.llava_mut().freeze_vision_projection = true);
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(
            said[0],
            format!(
                "`{PREFIX}model.multi_modal_projector.linear_1.bias` was trained, but this run freezes it: set finetune.model.freeze_vision_projection=false"
            )
        );
        // A target less: its tensors are left over. A target more is missing.
        let said = error(&|_, finetune| lora(finetune).target_modules = targets(&LINEARS[1..]));
        assert_eq!(said.len(), 2 * 3, "{said:?}");
        assert!(said[0].contains("k_proj") && said[0].ends_with("is not in the model"), "{said:?}");
        let said = error(&|_, finetune| {
            lora(finetune).target_modules.push("*.multi_modal_projector.linear_2".into());
        });
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("linear_2.lora_A") && said[0].ends_with("is missing"), "{said:?}");
    });
}
