//! PEFT adapters that are refused, and the advice of the refusals.

use super::{LINEARS, PREFIX, check_loaded, finetune, folder, load, lora, targets};
use crate::setting::{ONE, rewrite, within_limit};
use neva_engine::EngineError;
use neva_engine::comm::Mesh;
use neva_schemas::{Finetune, LoRA, exit_class};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Returns the refusal of a folder and a run after `change`.
fn refusal(change: impl FnOnce(&Path, &mut Finetune)) -> String {
    let parent = tempfile::tempdir().unwrap();
    let folder = folder(parent.path());
    let mut finetune = finetune(&folder);
    change(&folder, &mut finetune);
    let error = load(&finetune, &Mesh::single()).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::INPUT, "{error:?}");
    error.to_string().replace(&folder.display().to_string(), "DIR")
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("adapter_config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn the_refusal_of_other_adapters_lists_all_settings() {
    within_limit(|| {
        let message = refusal(|_, finetune| {
            let lora = lora(finetune);
            (lora.dim, lora.alpha, lora.target_modules) = (32, 32.0, LoRA::default().target_modules);
        });
        assert_eq!(
            message,
            "
    finetune.peft.dim: `dim` is 32, but the adapter in DIR has `r` 8 (--set finetune.peft.dim=8)
    finetune.peft.alpha: `alpha` is 32, but the adapter in DIR has `lora_alpha` 16 (--set finetune.peft.alpha=16)
    finetune.peft.target_modules: a fused module (`linear_qkv`, `linear_fc1`) has one A for all its linears, but the adapter in DIR has one for each (--set 'finetune.peft.target_modules=[\"*.language_model.*.down_proj\",\"*.language_model.*.gate_proj\",\"*.language_model.*.k_proj\",\"*.language_model.*.o_proj\",\"*.language_model.*.q_proj\",\"*.language_model.*.up_proj\",\"*.language_model.*.v_proj\"]')"
        );
        let message = refusal(|_, finetune| finetune.peft = None);
        assert!(
            message.starts_with("finetune.peft: the run has no adapters, but DIR holds some (--set peft_scheme=lora --set finetune.peft.dim=8 --set finetune.peft.alpha=16 --set 'finetune.peft.target_modules=["),
            "{message}"
        );
        let message = refusal(|folder, finetune| {
            finetune.resume.restore_config = None;
            edit(folder, |config| config["base_model_name_or_path"] = json!("llava-hf/tiny"));
        });
        assert_eq!(
            message,
            "finetune.resume.restore_config: the adapter in DIR does not hold the base that it goes with (`base_model_name_or_path` is \"llava-hf/tiny\") (name a folder with the weights of its base: --set finetune.resume.restore_config.path=DIR)"
        );
        let message = refusal(|folder, _| std::fs::remove_file(folder.join("adapter_config.json")).unwrap());
        assert_eq!(
            message,
            "finetune.resume.adapter_path: DIR is neither a checkpoint of this program nor a folder of PEFT (name a folder with checkpoint.json, or with adapter_config.json and adapter_model.safetensors (or .bin))"
        );
        let message = refusal(|folder, _| std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap());
        assert!(message.starts_with("cannot open DIR/adapter_model.safetensors"), "{message}");
    });
}

#[test]
fn unsupported_settings_are_listed() {
    within_limit(|| {
        let message = refusal(|folder, _| {
            edit(folder, |config| {
                config["use_qalora"] = json!(true);
                config["layer_replication"] = json!([[0, 2]]);
                config["bias"] = json!("all");
                config["init_lora_weights"] = json!("pissa");
                config["r"] = json!("eight");
            });
        });
        assert_eq!(
            message,
            "DIR/adapter_config.json: `layer_replication` is [[0,2]], which this program does not compute; \
             `use_qalora` is true, which this program does not compute; \
             `bias` is \"all\", supported: \"none\"; \
             `init_lora_weights` is \"pissa\", whose adapters go with a changed base: save with `path_initial_model_for_weight_conversion`; \
             `r` is \"eight\", expected a number"
        );
        let message = refusal(|folder, _| std::fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "IA3"}"#).unwrap());
        assert!(
            message.contains("the adapter's kind is \"IA3\" ((IA)³): this program trains, reads and merges LoRA")
                && !message.contains("null"),
            "{message}"
        );
        for mark in ["config.json", "non_lora_trainables.bin"] {
            let message = refusal(|folder, _| std::fs::write(folder.join(mark), r#"{"model_type": "llava_llama"}"#).unwrap());
            assert_eq!(
                message,
                "finetune.resume.adapter_path: DIR is an adapter of the original LLaVA code, which has its own names and files (convert it first: neva-run import DIR)"
            );
        }
        // Settings that only choose targets or initial values are ignored.
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
fn all_mismatched_tensors_are_listed() {
    within_limit(|| {
        let of = |layer: usize, linear: &str| format!("{PREFIX}model.language_model.layers.{layer}.{linear}.weight");
        let error = |change: &dyn Fn(&Path, &mut Finetune)| {
            let parent = tempfile::tempdir().unwrap();
            let folder = folder(parent.path());
            let mut finetune = finetune(&folder);
            change(&folder, &mut finetune);
            match load(&finetune, &Mesh::single()).unwrap_err() {
                EngineError::Weights { path, mut problems } => {
                    // The advice on targets has its own test.
                    problems.retain(|problem| !problem.starts_with("the run has adapters on other modules"));
                    assert_eq!(path, folder.join("adapter_model.safetensors"));
                    problems
                }
                other => panic!("{other}"),
            }
        };
        let message = error(&|folder, _| {
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
            "`model.multi_modal_projector.linear_1.weight` is not a tensor of an adapter of a LLaVA model".to_owned(),
            format!("`{PREFIX}model.vision_tower.post_layernorm.weight` was trained, but this run freezes it (the model never uses it)"),
            format!("`{}` [64, 8] is missing", q.strip_prefix(PREFIX).unwrap()),
            format!("`{v}` has shape [4, 64], the model needs [8, 64]"),
            format!("`{PREFIX}lm_head.lora_A.weight` [8, 64] is not in the model"),
            format!("`{up}` [8, 64] is not in the model"),
        ];
        let mut message = message;
        message.sort();
        expect.sort();
        assert_eq!(message, expect);

        let message = error(&|_, finetune| finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true);
        assert_eq!(message.len(), 4, "{message:?}");
        assert_eq!(
            message[0],
            format!(
                "`{PREFIX}model.multi_modal_projector.linear_1.bias` was trained, but this run freezes it: set finetune.model.freeze_vision_projection=false"
            )
        );
        // With one target fewer, its tensors are unknown. With one more, its tensors are missing.
        let message = error(&|_, finetune| lora(finetune).target_modules = targets(&LINEARS[1..]));
        assert_eq!(message.len(), 2 * 3, "{message:?}");
        assert!(
            message[0].contains("k_proj") && message[0].ends_with("is not in the model"),
            "{message:?}"
        );
        let message = error(&|_, finetune| {
            lora(finetune).target_modules.push("*.multi_modal_projector.linear_2".into());
        });
        assert_eq!(message.len(), 2, "{message:?}");
        assert!(
            message[0].contains("linear_2.lora_A") && message[0].ends_with("is missing"),
            "{message:?}"
        );
    });
}

/// No override lets a run fit an adapter of another model.
#[test]
fn an_adapter_of_another_model_is_called_so() {
    within_limit(|| {
        let parent = tempfile::tempdir().unwrap();
        let folder = folder(parent.path());
        rewrite(&folder.join("adapter_model.safetensors"), |tensors| {
            for end in ["lora_A", "lora_B"] {
                let name = |layer: usize| format!("{PREFIX}model.language_model.layers.{layer}.self_attn.q_proj.{end}.weight");
                let (_, value) = tensors.iter().find(|(own, _)| *own == name(0)).unwrap();
                let value = value.copy();
                tensors.extend([(name(98), value.copy()), (name(99), value)]);
            }
        });
        let EngineError::Weights { problems, .. } = load(&finetune(&folder), &Mesh::single()).unwrap_err() else {
            panic!("the tensors fit");
        };
        assert_eq!(
            problems[0],
            "the adapter belongs to another model: this one has no linear `model.language_model.layers.98.self_attn.q_proj` and \
             1 more that it adapts"
        );
        assert!(!problems.iter().any(|problem| problem.contains("--set")), "{problems:?}");
    });
}

/// The advice for an adapter on only some layers is accepted and sufficient.
#[test]
fn the_advice_for_an_adapter_on_some_layers_works() {
    within_limit(|| {
        let parent = tempfile::tempdir().unwrap();
        let folder = folder(parent.path());
        let left = |name: &str| {
            let in_layer = |layer| name.contains(&format!(".layers.{layer}."));
            // Some linears of the first layer, all of the last, none of the middle one.
            !name.contains("lora") || in_layer(2) || (in_layer(0) && (name.contains("q_proj") || name.contains("down_proj")))
        };
        rewrite(&folder.join("adapter_model.safetensors"), |tensors| {
            tensors.retain(|(name, _)| left(name))
        });
        let advice = |finetune: &Finetune| {
            let error = load(finetune, &Mesh::single()).unwrap_err().to_string();
            let (_, rest) = error
                .split_once("--set 'finetune.peft.target_modules=")
                .unwrap_or_else(|| panic!("{error}"));
            serde_json::from_str::<Vec<String>>(rest.split_once('\'').unwrap().0).unwrap()
        };
        let mut with_fused = finetune(&folder);
        lora(&mut with_fused).target_modules = LoRA::default().target_modules;
        let mut without = finetune(&folder);
        without.peft = None;
        for finetune in [&finetune(&folder), &with_fused, &without] {
            let mut advised = self::finetune(&folder);
            lora(&mut advised).target_modules = advice(finetune);
            let loaded = load(&advised, &Mesh::single()).unwrap();
            let adapters = loaded.specs.iter().filter(|spec| spec.name.contains("lora_A")).count();
            assert_eq!(adapters, 7 + 2, "{:?}", lora(&mut advised).target_modules);
        }
    });
}
