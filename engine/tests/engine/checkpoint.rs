//! Checkpoints that are damaged, or belong to another run.

use crate::setting::{copy, files, reseal, rewrite, run, small, within_limit};
use neva_schemas::{Finetune, LoRA, Peft, exit_class};
use std::path::Path;
use std::sync::OnceLock;
use tch::Tensor;

/// Returns a whole checkpoint, which is created once.
fn whole() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.trainer.max_steps = Some(1);
        let report = run(&finetune, &folder.path().join("run")).unwrap();
        std::fs::rename(report.checkpoint.unwrap(), folder.path().join("whole")).unwrap();
        folder
    });
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder.path().join("whole"))
}

/// Resumes from a damaged copy of a checkpoint. Checks that the failure is an input error with all of `expect`, and that
/// the checkpoint does not change.
fn check(damage: impl FnOnce(&Path), change: impl FnOnce(&mut Finetune), expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    copy(whole(), &checkpoint);
    damage(&checkpoint);
    let before = if checkpoint.is_dir() {
        files(&checkpoint)
    } else {
        Default::default()
    };
    let mut finetune = small();
    finetune.resume.resume_from_path = Some(checkpoint.clone());
    change(&mut finetune);
    let failure = run(&finetune, &folder.path().join("run")).unwrap_err();
    assert_eq!(failure.class, exit_class::INPUT, "{failure}");
    let text = failure.to_string();
    for part in expect {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    assert_eq!(failure.step, None, "no step was done");
    assert!(!checkpoint.is_dir() || files(&checkpoint) == before, "the checkpoint was touched");
    assert!(!folder.path().join("run/checkpoints").exists(), "something was saved");
}

fn unchanged(_: &mut Finetune) {}

#[test]
fn with_a_missing_file() {
    within_limit(|| {
        for file in ["checkpoint.json", "run.json", "model.safetensors", "optimizer.safetensors"] {
            check(|folder| std::fs::remove_file(folder.join(file)).unwrap(), unchanged, &[file]);
        }
        check(|folder| std::fs::remove_dir_all(folder).unwrap(), unchanged, &["checkpoint"]);
    });
}

#[test]
fn that_are_truncated() {
    within_limit(|| {
        for file in ["checkpoint.json", "run.json", "model.safetensors", "optimizer.safetensors"] {
            for keep in [0, 1, 2] {
                let cut = |folder: &Path| {
                    let bytes = std::fs::read(folder.join(file)).unwrap();
                    std::fs::write(folder.join(file), &bytes[..bytes.len() * keep / 3]).unwrap();
                };
                let word = if file == "checkpoint.json" { "damaged" } else { "truncated" };
                check(cut, unchanged, &[file, word]);
            }
        }
    });
}

/// Flips one bit anywhere, and tries every wrong length.
#[test]
fn with_a_flipped_bit() {
    within_limit(|| {
        for file in ["model.safetensors", "optimizer.safetensors", "run.json"] {
            for at in [0, 1, 2] {
                let flip = |folder: &Path| {
                    let mut bytes = std::fs::read(folder.join(file)).unwrap();
                    let place = (bytes.len() - 1) * at / 2;
                    bytes[place] ^= 1 << at;
                    std::fs::write(folder.join(file), bytes).unwrap();
                };
                check(flip, unchanged, &[file, "damaged"]);
            }
        }
    });
}

#[test]
fn that_are_not_checkpoints() {
    within_limit(|| {
        let write = |file: &'static str, text: &'static str| move |folder: &Path| std::fs::write(folder.join(file), text).unwrap();
        check(
            write(
                "checkpoint.json",
                "{\"format\": 99, \"version\": \"9\", \"steps_done\": 1, \"consumed_samples\": 8}",
            ),
            unchanged,
            &["checkpoint.json", "format 99"],
        );
        check(write("checkpoint.json", "[]"), unchanged, &["checkpoint.json"]);
        check(write("run.json", "{\"_factory_\": \"neva_tiny\"}"), unchanged, &["run.json"]);
        check(
            |folder| {
                write("model.safetensors", "<html>404 not found</html> and so on, and so on")(folder);
                reseal(folder);
            },
            unchanged,
            &["model.safetensors", "not a safetensors file"],
        );
        check(
            |folder| {
                std::fs::copy(folder.join("optimizer.safetensors"), folder.join("model.safetensors")).unwrap();
                reseal(folder);
            },
            unchanged,
            &["model.safetensors", "class_embedding", "is missing", "more"],
        );
        check(
            |folder| {
                std::fs::copy(folder.join("model.safetensors"), folder.join("optimizer.safetensors")).unwrap();
                reseal(folder);
            },
            unchanged,
            &["optimizer.safetensors", "class_embedding.exp_avg", "is missing", "more"],
        );
    });
}

#[test]
fn with_other_tensors() {
    within_limit(|| {
        let model = |folder: &Path| {
            rewrite(&folder.join("model.safetensors"), |tensors| {
                tensors.retain(|(name, _)| name != "model.language_model.norm.weight");
                tensors.push(("a.stranger".into(), Tensor::from_slice(&[1f32, 2.0])));
                for (name, tensor) in tensors {
                    if name == "lm_head.weight" {
                        *tensor = tensor.narrow(0, 0, 100);
                    }
                }
            });
            reseal(folder);
        };
        // All of them are listed.
        check(
            model,
            unchanged,
            &[
                "model.safetensors",
                "`model.language_model.norm.weight` [64] is missing",
                "`a.stranger` [2] is not in the model",
                "`lm_head.weight` has shape [100, 64], the model needs [320, 64]",
            ],
        );
        let optimizer = |folder: &Path| {
            rewrite(&folder.join("optimizer.safetensors"), |tensors| {
                tensors.retain(|(name, _)| name != "model.language_model.norm.weight.step" && name != "lm_head.weight.exp_avg_sq");
                for (name, tensor) in tensors {
                    if name == "lm_head.weight.exp_avg" {
                        *tensor = tensor.transpose(0, 1).contiguous();
                    }
                }
            });
            reseal(folder);
        };
        check(
            optimizer,
            unchanged,
            &[
                "optimizer.safetensors",
                "`model.language_model.norm.weight.step` is missing",
                "`lm_head.weight.exp_avg_sq` is missing",
                "`lm_head.weight.exp_avg` has shape [64, 320], the model needs [320, 64]",
            ],
        );
    });
}

#[test]
fn of_another_run() {
    within_limit(|| {
        check(
            |_| {},
            |finetune| finetune.model.as_llava_mut().unwrap().text_config.intermediate_size = 128,
            &["gate_proj.weight` has shape [96, 64], the model needs [128, 64]"],
        );
        check(
            |_| {},
            |finetune| finetune.model.as_llava_mut().unwrap().text_config.num_hidden_layers = 3,
            &["`model.language_model.layers.2.mlp.up_proj.weight` [96, 64] is missing"],
        );
        check(
            |_| {},
            |finetune| finetune.model.as_llava_mut().unwrap().freeze_vision_model = true,
            &["`model.vision_tower.embeddings.class_embedding` [32] is not in the model"],
        );
        check(
            |_| {},
            |finetune| finetune.peft = Some(Peft::LoRA(LoRA { dim: 4, ..LoRA::default() })),
            &["lora_A.weight` [4, 64] is missing"],
        );
    });
}
