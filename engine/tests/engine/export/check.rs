//! The check at the end of an export: what a reader would not load as the run is found.

use super::{exported, fixture, trained};
use crate::setting::{ONE, lora, no_cache, rewrite, small, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, TensorFile};
use neva_engine::export::{ExportDtype, ExportFormat, ExportRequest, NameLayout, Reader, check_export, check_export_with_canary};
use neva_engine::model::Models;
use neva_schemas::{Finetune, Quantization};
use serde_json::{Value, json};
use std::path::Path;
use tch::Tensor;

type Tensors = Vec<(String, Tensor)>;

/// A fault that someone brings into an export, and what the check says.
struct Fault {
    name: &'static str,
    form: (ExportFormat, NameLayout, Reader),
    change: Change,
    says: &'static [&'static str],
}

/// A change of a file.
enum Change {
    Tensors(&'static str, fn(&mut Tensors)),
    Json(&'static str, fn(&mut Value)),
}

const HF: (ExportFormat, NameLayout, Reader) = (ExportFormat::Hf, NameLayout::Original, Reader::Transformers);
const PEFT: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Newer, Reader::Peft);
const OLD_PEFT: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Original, Reader::Peft);
const VLLM: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Original, Reader::Vllm);
const LLAVA: (ExportFormat, NameLayout, Reader) = (ExportFormat::Llava, NameLayout::Original, Reader::Transformers);

const MODEL: &str = "model.safetensors";
const ADAPTER: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

fn named<'a>(tensors: &'a mut Tensors, part: &str) -> &'a mut (String, Tensor) {
    let found = tensors.iter_mut().find(|(name, _)| name.contains(part));
    found.unwrap_or_else(|| panic!("no tensor is called {part}"))
}

fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let (name, _) = named(tensors, from);
    *name = name.replace(from, to);
}

fn faults() -> Vec<Fault> {
    let fault = |name, form, change, says| Fault { name, form, change, says };
    vec![
        fault(
            "a key of the projector is renamed",
            HF,
            Change::Tensors(MODEL, |tensors| {
                rename(tensors, "multi_modal_projector.linear_1.weight", "projector.linear_1.weight")
            }),
            &[
                "`projector.linear_1.weight` of",
                "has a name that transformers does not look for",
                "`model.multi_modal_projector.linear_1.weight` was trained, but no key",
            ],
        ),
        fault(
            "names of transformers 5 for readers of all versions",
            HF,
            Change::Tensors(MODEL, |tensors| {
                rename(tensors, "language_model.model.norm", "model.language_model.norm")
            }),
            &["`model.language_model.norm.weight` of", "is part of the model, but no key"],
        ),
        fault(
            "a merged weight is the base's",
            HF,
            Change::Tensors(MODEL, |tensors| {
                let (_, tensor) = named(tensors, "layers.1.mlp.down_proj");
                *tensor = tensor.zeros_like();
            }),
            &[
                "`model.language_model.layers.1.mlp.down_proj.weight` differs by",
                "canary logits differ by",
            ],
        ),
        fault(
            "an untrained weight is another one",
            HF,
            Change::Tensors(MODEL, |tensors| {
                let (_, tensor) = named(tensors, "encoder.layers.0.mlp.fc1.weight");
                *tensor = &*tensor * 3.0;
            }),
            &["canary logits differ by"],
        ),
        fault(
            "a weight is not a number",
            HF,
            Change::Tensors(MODEL, |tensors| {
                let (_, tensor) = named(tensors, "input_layernorm");
                *tensor = tensor.full_like(f64::NAN);
            }),
            &["canary logits differ by inf"],
        ),
        fault(
            "a tensor too many",
            HF,
            Change::Tensors(MODEL, |tensors| {
                tensors.push(("language_model.model.layers.9.mlp.up_proj.weight".into(), Tensor::from(1.0)));
            }),
            &["`model.language_model.layers.9.mlp.up_proj.weight`, which this export does not have"],
        ),
        fault(
            "the names of transformers 4 in an adapter for 5",
            PEFT,
            Change::Tensors(ADAPTER, |tensors| {
                rename(tensors, "model.language_model.layers.0", "language_model.model.layers.0")
            }),
            &["has a name that PEFT does not look for", "was trained, but no key"],
        ),
        fault(
            "the names of transformers 5 in an adapter for 4",
            OLD_PEFT,
            Change::Tensors(ADAPTER, |tensors| {
                rename(tensors, "language_model.model.layers.0", "model.language_model.layers.0")
            }),
            &["has a name that PEFT does not look for"],
        ),
        fault(
            "the projector is left out",
            PEFT,
            Change::Tensors(ADAPTER, |tensors| tensors.retain(|(name, _)| !name.contains("projector"))),
            &["`model.multi_modal_projector.linear_2.bias` was trained, but no key of the export is one that PEFT loads"],
        ),
        fault(
            "the projector is not saved",
            PEFT,
            Change::Json(CONFIG, |config| config["modules_to_save"] = Value::Null),
            &["`model.multi_modal_projector.linear_1.weight` was trained, but no name in `modules_to_save`"],
        ),
        fault(
            "another scale",
            PEFT,
            Change::Json(CONFIG, |config| config["lora_alpha"] = 32.into()),
            &["rank 4 and scale 8, the run has 4 and 2"],
        ),
        fault(
            "rsLoRA",
            PEFT,
            Change::Json(CONFIG, |config| config["use_rslora"] = true.into()),
            &["rank 4 and scale 4, the run has 4 and 2"],
        ),
        fault(
            "targets that are in the vision encoder, too",
            PEFT,
            Change::Json(CONFIG, |config| {
                config["target_modules"] = json!(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
            }),
            &["also matches `model.vision_tower.encoder.layers.0.self_attn.q_proj`, which has no adapter"],
        ),
        fault(
            "targets that leave one out",
            PEFT,
            Change::Json(CONFIG, |config| config["target_modules"] = json!([".*language_model.*o_proj"])),
            &["does not match `model.language_model.layers.0.self_attn.q_proj`"],
        ),
        fault(
            "an A is not the run's",
            PEFT,
            Change::Tensors(ADAPTER, |tensors| {
                let (_, tensor) = named(tensors, "k_proj.lora_A");
                *tensor = &*tensor + 1.0;
            }),
            &["A of the adapter of", "k_proj` differs by 1"],
        ),
        fault(
            "an adapter of vLLM with other names",
            VLLM,
            Change::Tensors("adapter/adapter_model.safetensors", |tensors| {
                rename(tensors, "language_model.model.layers.1", "model.layers.1")
            }),
            &[
                "has a name that vLLM does not look for",
                "no key of the export is one that vLLM loads",
            ],
        ),
        fault(
            "modules that vLLM refuses",
            VLLM,
            Change::Json("adapter/adapter_config.json", |config| {
                config["modules_to_save"] = json!(["multi_modal_projector"])
            }),
            &["vLLM refuses `modules_to_save`"],
        ),
        fault(
            "a base for vLLM without the trained projector",
            VLLM,
            Change::Tensors("base/model.safetensors", |tensors| {
                let (_, tensor) = named(tensors, "multi_modal_projector.linear_1.bias");
                *tensor = tensor.zeros_like();
            }),
            &["`model.multi_modal_projector.linear_1.bias` differs by"],
        ),
        fault(
            "a projector with transformers' names for LLaVA's code",
            LLAVA,
            Change::Tensors(MODEL, |tensors| rename(tensors, "mm_projector.0.weight", "mm_projector.1.weight")),
            &["has a name that LLaVA's code does not look for"],
        ),
    ]
}

/// Returns a run that trains adapters and the projector.
fn adapted() -> Finetune {
    let mut finetune = small();
    lora(&mut finetune);
    finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
    finetune
}

fn request(checkpoint: &CheckpointFolder, out: &Path, (format, names, reader): (ExportFormat, NameLayout, Reader)) -> ExportRequest {
    ExportRequest {
        out: Some(out.to_owned()),
        reader: matches!(format, ExportFormat::Hf | ExportFormat::HfPeft).then_some(reader),
        names: (format != ExportFormat::Llava && reader != Reader::Vllm).then_some(names),
        ..ExportRequest::new(&checkpoint.path, format)
    }
}

#[test]
fn faults_of_exports_are_found() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained(folder.path(), &adapted(), ONE);
        for (index, fault) in faults().into_iter().enumerate() {
            let out = folder.path().join(format!("fault-{index}"));
            let request = request(&checkpoint, &out, fault.form);
            let again = || check_export(&request, &Models::builtin(), &no_cache());
            exported(&checkpoint.path, &out, fault.form.0, |own| *own = request.clone()).unwrap();
            again().unwrap();
            match fault.change {
                Change::Tensors(file, change) => rewrite(&out.join(file), change),
                Change::Json(file, change) => {
                    let path = out.join(file);
                    let mut content: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                    change(&mut content);
                    std::fs::write(&path, content.to_string()).unwrap();
                }
            }
            let error = again().expect_err(fault.name).to_string();
            for text in fault.says {
                assert!(error.contains(text), "{}: {error}", fault.name);
            }
        }
    });
}

#[test]
fn an_export_of_another_run_is_found() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let other = Finetune {
            trainer: neva_schemas::TrainerConfig {
                seed: 7,
                ..adapted().trainer
            },
            ..adapted()
        };
        let [own, other] = [adapted(), other].map(|finetune| {
            let name = format!("run-{}", finetune.trainer.seed);
            trained(&folder.path().join(name), &finetune, ONE)
        });
        let out = folder.path().join("out");
        for form in [HF, PEFT] {
            exported(&own.path, &out, form.0, |request| request.overwrite = true).unwrap();
            let error = check_export(&request(&other, &out, form), &Models::builtin(), &no_cache());
            assert!(error.unwrap_err().to_string().contains("differs by"));
        }
    });
}

#[test]
fn the_index_is_compared_with_the_files() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained(folder.path(), &adapted(), ONE);
        let out = folder.path().join("out");
        let shards = ExportRequest {
            max_shard_size: 100_000,
            ..request(&checkpoint, &out, HF)
        };
        exported(&checkpoint.path, &out, ExportFormat::Hf, |own| *own = shards.clone()).unwrap();
        check_export(&shards, &Models::builtin(), &no_cache()).unwrap();
        let path = out.join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("language_model.model.norm.weight").unwrap();
        std::fs::write(&path, index.to_string()).unwrap();
        let error = check_export(&shards, &Models::builtin(), &no_cache()).unwrap_err().to_string();
        assert!(
            error.contains("the index says that `language_model.model.norm.weight` is in nowhere"),
            "{error}"
        );
    });
}

/// Every trained tensor is counted, and the differences are those of the formats.
#[test]
fn the_summary_counts_what_was_trained() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = trained(folder.path(), &adapted(), ONE);
        let trained = checkpoint.model().unwrap().shapes().count();
        for form in [HF, PEFT, OLD_PEFT, VLLM, LLAVA] {
            let out = folder.path().join(format!("{}-{}-{}", form.0, form.1, form.2));
            let own = request(&checkpoint, &out, form);
            let checked = exported(&checkpoint.path, &out, form.0, |request| *request = own).unwrap().checked;
            assert_eq!(checked.trained, trained);
            let from_base = checked.from_base.unwrap();
            assert!(checked.from_run.unwrap() < 1e-4 && from_base > 1e-3, "{checked}");
            assert!(
                checked
                    .to_string()
                    .starts_with(&format!("checked: {trained} of {trained} trained tensors in keys that "))
            );
        }
    });
}

/// A copy of a folder has its bytes: the logits need not be computed. Any other export computes them.
#[test]
fn equal_bytes_are_equal_logits() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = fixture("llava_clip_llama");
        for (name, dtype, identical) in [("same", None, true), ("rounded", Some(ExportDtype::Bfloat16), false)] {
            let out = folder.path().join(name);
            let written = exported(&source, &out, ExportFormat::Hf, |request| request.dtype = dtype).unwrap();
            let checked = written.checked;
            assert_eq!(
                (checked.identical, checked.from_run == Some(0.0)),
                (identical, identical),
                "{name}: {checked}"
            );
            assert_eq!(checked.to_string().contains("has the bytes of the source"), identical, "{checked}");
            let request = ExportRequest {
                out: Some(out.clone()),
                dtype,
                ..ExportRequest::new(&source, ExportFormat::Hf)
            };
            // Whoever wants the logits gets them.
            let wanted = ExportRequest {
                logits: true,
                ..request.clone()
            };
            let computed = check_export(&wanted, &Models::builtin(), &no_cache()).unwrap();
            assert!(!computed.identical && computed.from_run == checked.from_run, "{name}: {computed}");
            let canary = folder.path().join(format!("{name}.safetensors"));
            let computed = check_export_with_canary(&request, &canary, &Models::builtin(), &no_cache()).unwrap();
            assert!(!computed.identical && computed.from_run == checked.from_run, "{name}: {computed}");
            let logits = TensorFile::open(&canary).unwrap().read("logits", None).unwrap();
            assert!(logits.numel() > 0);
            // One changed bit is found without them.
            rewrite(&out.join(MODEL), |tensors| {
                let (_, tensor) = named(tensors, "layers.0.mlp.fc2.weight");
                *tensor = &*tensor + 1.0;
            });
            let error = check_export(&request, &Models::builtin(), &no_cache()).unwrap_err().to_string();
            assert!(error.contains("canary logits differ by"), "{name}: {error}");
        }
    });
}

/// The export has the weights of the base. The run computed with 4 bits, and the check says what that changes.
#[test]
fn the_difference_of_four_bits_is_told() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        for quantization in [None, Some(Quantization::Nf4)] {
            let mut finetune = adapted();
            finetune.peft.as_mut().unwrap().lora_mut().quantization = quantization;
            let name = quantization.map_or("whole", |_| "nf4");
            let checkpoint = trained(&folder.path().join(name), &finetune, ONE);
            for format in [ExportFormat::Hf, ExportFormat::HfPeft] {
                let out = folder.path().join(format!("{name}-{format}"));
                let checked = exported(&checkpoint.path, &out, format, |_| {}).unwrap().checked;
                assert!(checked.from_run.unwrap() < 1e-4, "{name}: {checked}");
                assert_eq!(checked.from_four_bits.is_some(), quantization.is_some(), "{checked}");
                // 4 bits are a visible loss, and no other model.
                let difference = checked.from_four_bits.unwrap_or(0.1);
                assert!((1e-3..2.0).contains(&difference), "{checked}");
                assert_eq!(checked.to_string().contains("in 4 bits"), quantization.is_some());
            }
        }
    });
}
