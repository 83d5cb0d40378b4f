//! Adapters in PEFT's format, and their merge: what is merged equals what the run computes.

use super::{exported, fixture, json_of, tensors, trained};
use crate::setting::{ONE, adapters, close_tensors, copy, no_cache, rewrite, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, Checksum, SEAL};
use neva_engine::export::{ExportFormat, MergeRequest, NameLayout, Reader, WeightedAdapter, check_merge, merge};
use neva_engine::model::Models;
use neva_schemas::{Finetune, LoRA, MAX_SHARD_SIZE, ParallelSizes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const BASE: &str = "llava_clip_llama";
const FUSED: &[&str] = &[
    "*.language_model.*.linear_qkv",
    "*.language_model.*.linear_fc1",
    "*.language_model.*.linear_proj",
];
const SEPARATE: &[&str] = &[
    "*.language_model.*.q_proj",
    "*.language_model.*.v_proj",
    "*.language_model.layers.1.*.down_proj",
];

/// A run with adapters.
struct Case {
    name: &'static str,
    targets: &'static [&'static str],
    change: fn(&mut LoRA),
    /// Freezes projector and vision encoder.
    frozen: bool,
    sizes: ParallelSizes,
}

const CASES: &[Case] = &[
    Case {
        name: "fused, with projector and vision encoder",
        targets: FUSED,
        change: |_| {},
        frozen: false,
        sizes: ParallelSizes { tp: 2, pp: 2, ..ONE },
    },
    Case {
        name: "separate, adapters alone",
        targets: SEPARATE,
        change: |_| {},
        frozen: true,
        sizes: ONE,
    },
    Case {
        name: "rsLoRA and patterns",
        targets: SEPARATE,
        change: |lora| {
            lora.use_rslora = true;
            lora.rank_pattern.insert("q_proj".into(), 2);
            lora.alpha_pattern.insert(r"layers\.1\.mlp\.down_proj".into(), 3.0);
        },
        frozen: true,
        sizes: ONE,
    },
    Case {
        name: "adapters of the projector, too",
        targets: &["*.language_model.*.linear_qkv", "*.multi_modal_projector.linear_1"],
        change: |_| {},
        frozen: true,
        sizes: ONE,
    },
    Case {
        name: "DoRA",
        targets: SEPARATE,
        change: |lora| lora.use_dora = true,
        frozen: true,
        sizes: ONE,
    },
];

impl Case {
    fn finetune(&self, base: &Path) -> Finetune {
        let mut finetune = crate::weights::finetune(base);
        adapters(&mut finetune, self.targets);
        let model = finetune.model.as_llava_mut().unwrap();
        (model.freeze_vision_model, model.freeze_vision_projection) = (self.frozen, self.frozen);
        let lora = finetune.peft.as_mut().unwrap().lora_mut();
        (self.change)(lora);
        finetune
    }

    fn train(&self, folder: &Path, base: &Path) -> CheckpointFolder {
        trained(folder, &self.finetune(base), self.sizes)
    }
}

fn request(base: Option<&Path>, adapters: &[(&Path, f64)], out: &Path) -> MergeRequest {
    let adapters = adapters.iter().map(|(path, weight)| WeightedAdapter {
        path: path.to_path_buf(),
        weight: *weight,
    });
    MergeRequest {
        base: base.map(Path::to_owned),
        adapters: adapters.collect(),
        out: out.to_owned(),
        names: NameLayout::Original,
        reader: Reader::Transformers,
        dtype: None,
        max_shard_size: MAX_SHARD_SIZE,
        overwrite: false,
    }
}

/// Merges adapters with their weights. Returns the tensors of the merged model.
pub(super) fn merged(base: Option<&Path>, adapters: &[(&Path, f64)], out: &Path) -> BTreeMap<String, Tensor> {
    merge(&request(base, adapters, out), &Models::builtin(), &no_cache()).unwrap();
    tensors(out)
}

#[test]
fn are_merged_as_the_run_computes_them() {
    within_limit(|| {
        let base = fixture(BASE);
        for case in CASES {
            let folder = tempfile::tempdir().unwrap();
            let below = |name: &str| folder.path().join(name);
            let checkpoint = case.train(folder.path(), &base);
            exported(&checkpoint.path, &below("hf"), ExportFormat::Hf, |_| {}).unwrap();
            let whole = tensors(&below("hf"));
            assert!(
                whole.iter().any(|(name, tensor)| !tensor.equal(&tensors(&base)[name])),
                "{}",
                case.name
            );
            let of_checkpoint = merged(None, &[(&checkpoint.path, 1.0)], &below("of_checkpoint"));
            close_tensors(case.name, &of_checkpoint, &whole, 1e-6);
            for names in [NameLayout::Original, NameLayout::Newer] {
                let peft = below(names.word());
                exported(&checkpoint.path, &peft, ExportFormat::HfPeft, |request| request.names = Some(names)).unwrap();
                let got = merged(Some(&base), &[(&peft, 1.0)], &below(&format!("of_{names}")));
                close_tensors(case.name, &got, &whole, 1e-6);
            }
            if case.name == "DoRA" {
                continue;
            }
            let served = below("vllm");
            let written = exported(&checkpoint.path, &served, ExportFormat::HfPeft, |request| {
                request.reader = Some(Reader::Vllm);
            })
            .unwrap();
            assert_eq!(written.model.is_some(), !case.frozen, "{}", case.name);
            let (model, adapter) = (written.model.unwrap_or(base.clone()), written.adapter.unwrap());
            assert!(
                json_of(&adapter, "adapter_config.json")["modules_to_save"].is_null(),
                "{}",
                case.name
            );
            let got = merged(Some(&model), &[(&adapter, 1.0)], &below("of_vllm"));
            close_tensors(case.name, &got, &whole, 1e-5);
        }
    });
}

#[test]
fn are_described_as_peft_reads_them() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = fixture(BASE);
        let config = |case: &Case, reader: Option<Reader>| -> Value {
            let folder = tempfile::tempdir().unwrap();
            let checkpoint = case.train(folder.path(), &base);
            let out = folder.path().join("out");
            let written = exported(&checkpoint.path, &out, ExportFormat::HfPeft, |request| request.reader = reader).unwrap();
            json_of(&written.adapter.unwrap(), "adapter_config.json")
        };
        let fused = config(&CASES[0], None);
        let language = r"(?:model\.)?language_model\.(?:model\.)?layers\.\d+\.";
        let linears = r"(?:mlp\.gate_proj|mlp\.up_proj|self_attn\.k_proj|self_attn\.o_proj|self_attn\.q_proj|self_attn\.v_proj)";
        assert_eq!(fused["target_modules"], format!("{language}{linears}"));
        assert_eq!(fused["modules_to_save"], json!(["multi_modal_projector", "vision_tower"]));
        assert_eq!((&fused["r"], &fused["lora_alpha"]), (&json!(4), &json!(8)));
        assert_eq!(fused["base_model_name_or_path"], base.display().to_string());
        assert_eq!(fused["rank_pattern"], json!({}));

        let patterns = config(&CASES[2], None);
        let q = |layer: u32| format!("model.language_model.layers.{layer}.self_attn.q_proj");
        assert_eq!(patterns["rank_pattern"], json!({ q(0): 2, q(1): 2 }));
        assert_eq!(
            patterns["alpha_pattern"],
            json!({ "model.language_model.layers.1.mlp.down_proj": 3 })
        );
        assert_eq!(
            (&patterns["use_rslora"], &patterns["modules_to_save"]),
            (&json!(true), &Value::Null)
        );
        let one_layer = r"(?:model\.)?language_model\.(?:model\.)?layers\.1\.mlp\.down_proj";
        assert!(
            patterns["target_modules"]
                .as_str()
                .unwrap()
                .split('|')
                .any(|part| part == one_layer),
            "{patterns}"
        );

        // vLLM has one rank for all.
        let served = config(&CASES[2], Some(Reader::Vllm));
        assert_eq!(served["target_modules"], patterns["target_modules"]);
        assert_eq!(
            (&served["r"], &served["rank_pattern"], &served["use_rslora"]),
            (&json!(4), &json!({}), &json!(false))
        );
        drop(folder);
    });
}

#[test]
fn of_several_runs_are_merged_with_weights() {
    within_limit(|| {
        let base = fixture(BASE);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let runs: Vec<_> = [&CASES[0], &CASES[1]]
            .iter()
            .zip(&folders)
            .map(|(case, folder)| case.train(folder.path(), &base))
            .collect();
        let whole: Vec<_> = runs
            .iter()
            .zip(&folders)
            .map(|(run, folder)| {
                let out = folder.path().join("hf");
                exported(&run.path, &out, ExportFormat::Hf, |_| {}).unwrap();
                tensors(&out)
            })
            .collect();
        let peft = folders[1].path().join("peft");
        exported(&runs[1].path, &peft, ExportFormat::HfPeft, |_| {}).unwrap();
        let plain = folders[0].path().join("plain");
        exported(&base, &plain, ExportFormat::Hf, |_| {}).unwrap();
        let plain = tensors(&plain);
        let expected: BTreeMap<_, _> = plain
            .iter()
            .map(|(name, plain)| {
                let change = (&whole[0][name] - plain) * 0.7 + (&whole[1][name] - plain) * 0.3;
                (name.clone(), plain + change)
            })
            .collect();
        let both: [(&Path, f64); 2] = [(&runs[0].path, 0.7), (&peft, 0.3)];
        let out = folders[0].path().join("merged");
        let got = merged(None, &both, &out);
        close_tensors("two adapters", &got, &expected, 1e-5);
        // The check compares each tensor with the formula, and finds another value and another name.
        let request = request(None, &both, &out);
        let check = || check_merge(&request, &Models::builtin(), &no_cache());
        let checked = check().unwrap();
        let text = checked.to_string();
        assert!(
            checked.trained > 4 && text.contains("every tensor has the value of the formula"),
            "{text}"
        );
        let file = out.join("model.safetensors");
        let change = |change: &dyn Fn(&mut (String, Tensor))| {
            rewrite(&file, |tensors| {
                let at = tensors
                    .iter()
                    .position(|(name, _)| name.ends_with("layers.0.self_attn.q_proj.weight"));
                change(&mut tensors[at.unwrap()]);
            });
        };
        change(&|(_, tensor)| *tensor = &*tensor * 1.01);
        let error = check().unwrap_err().to_string();
        assert!(error.contains("layers.0.self_attn.q_proj.weight` differs by"), "{error}");
        change(&|(name, _)| name.push('s'));
        let error = check().unwrap_err().to_string();
        assert!(error.contains("q_proj.weights` of"), "{error}");
    });
}

/// Returns the error of a merge.
fn refusal(base: Option<&Path>, adapters: &[&Path], out: &Path) -> String {
    let adapters: Vec<_> = adapters.iter().map(|path| (*path, 1.0)).collect();
    let request = request(base, &adapters, out);
    let error = merge(&request, &Models::builtin(), &no_cache()).unwrap_err();
    assert!(!out.exists());
    error.to_string()
}

#[test]
fn of_another_base_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        copy(&fixture(BASE), &base);
        let checkpoint = CASES[1].train(folder.path(), &base);
        let other = folder.path().join("other");
        copy(&base, &other);
        rewrite(&other.join("model.safetensors"), |tensors| tensors[0].1 = &tensors[0].1 + 1.0);
        let out = folder.path().join("out");
        let error = refusal(Some(&other), &[&checkpoint.path], &out);
        assert!(
            error.contains("was trained on the weights") && error.contains("these are the weights"),
            "{error}"
        );
        let error = refusal(None, &[&folder.path().join("none")], &out);
        assert!(error.contains("none does not exist"), "{error}");
        let error = refusal(Some(&base), &[&base], &out);
        assert!(error.contains("holds a whole model, not adapters"), "{error}");
        // A merge replaces neither its base nor its adapters.
        for read in [&base, &checkpoint.path] {
            let mut request = request(Some(&base), &[(&checkpoint.path, 1.0)], read);
            request.overwrite = true;
            let error = merge(&request, &Models::builtin(), &no_cache()).unwrap_err();
            assert!(error.to_string().contains("is read: it is not replaced"), "{error}");
            assert!(read.is_dir());
        }
        let error = exported(&folder.path().join("none"), &out, ExportFormat::Hf, |_| {}).unwrap_err();
        assert!(error.to_string().contains("there is no such folder"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("name the folder of a checkpoint")));
        let peft = folder.path().join("peft");
        exported(&checkpoint.path, &peft, ExportFormat::HfPeft, |_| {}).unwrap();
        // A tensor that the adapter lacks.
        let file = peft.join("adapter_model.safetensors");
        rewrite(&file, |tensors| {
            tensors.retain(|(name, _)| !name.contains("layers.1.self_attn.v_proj.lora_B"))
        });
        let error = refusal(Some(&base), &[&peft], &out);
        assert!(error.contains("v_proj.lora_B.weight"), "{error}");
    });
}

/// A merge that would lose what a run trained fails, and names the tensor.
#[test]
fn of_a_checkpoint_that_lacks_a_trained_tensor_are_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = fixture(BASE);
        for (case, part) in [
            (&CASES[0], "multi_modal_projector.linear_1.weight"),
            (&CASES[1], "layers.1.mlp.down_proj.lora_B"),
        ] {
            let folder = folder.path().join(case.name.split(' ').next().unwrap());
            let checkpoint = trained(&folder, &case.finetune(&base), ONE);
            let file = checkpoint.path.join("model.safetensors");
            rewrite(&file, |tensors| tensors.retain(|(name, _)| !name.contains(part)));
            reseal(&checkpoint.path);
            let error = refusal(None, &[&checkpoint.path], &folder.join("out"));
            assert!(error.contains(part) && error.contains("is missing"), "{error}");
        }
    });
}

/// Writes the checksums of a changed checkpoint again, as someone does who made it.
fn reseal(checkpoint: &Path) {
    let table = checkpoint.join("checkpoint.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&table).unwrap()).unwrap();
    let sum = Checksum::of(&checkpoint.join("model.safetensors")).unwrap();
    state["files"]["model.safetensors"] = serde_json::to_value(sum).unwrap();
    std::fs::write(&table, state.to_string()).unwrap();
    std::fs::write(checkpoint.join(SEAL), Checksum::of(&table).unwrap().blake3).unwrap();
}
