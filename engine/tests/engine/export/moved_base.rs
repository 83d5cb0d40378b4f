//! Base weights that were moved after the run: `--base` names them, and their hash is checked.

use super::{exported, fixture, tensors, trained};
use crate::setting::{ONE, copy, lora, names, rewrite, within_limit};
use neva_engine::export::ExportFormat;
use std::path::{Path, PathBuf};

const BASE: &str = "llava_clip_llama";

fn base(folder: &Path) -> PathBuf {
    let base = folder.join("base");
    copy(&fixture(BASE), &base);
    base
}

#[test]
fn are_found_by_their_hash() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (base, moved) = (base(folder.path()), folder.path().join("moved"));
        let mut finetune = crate::weights::finetune(&base);
        lora(&mut finetune);
        let checkpoint = trained(folder.path(), &finetune, ONE);
        let below = |name: &str| folder.path().join(name);
        exported(&checkpoint.path, &below("before"), ExportFormat::Hf, |_| {}).unwrap();
        std::fs::rename(&base, &moved).unwrap();

        let error = exported(&checkpoint.path, &below("out"), ExportFormat::Hf, |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("which is not there") && error.contains("--base"), "{error}");
        for format in [ExportFormat::Hf, ExportFormat::HfPeft, ExportFormat::Neva] {
            exported(&checkpoint.path, &below(format.word()), format, |request| {
                request.base = vec![moved.clone()]
            })
            .unwrap();
        }
        let (got, expected) = (tensors(&below("hf")), tensors(&below("before")));
        assert_eq!(got.len(), expected.len());
        assert!(expected.iter().all(|(name, tensor)| got[name].equal(tensor)));

        // Other weights: both hashes are in the message.
        let other = below("other");
        copy(&moved, &other);
        rewrite(&other.join("model.safetensors"), |tensors| tensors[0].1 = &tensors[0].1 + 1.0);
        let refused = |base: PathBuf| {
            let error = exported(&checkpoint.path, &below("out"), ExportFormat::Hf, |request| {
                request.base = vec![base]
            });
            error.unwrap_err().to_string()
        };
        let error = refused(other);
        for words in ["was trained on the weights ", "these are the weights ", "--base DIR"] {
            assert!(error.contains(words), "{error}");
        }
        let error = refused(below("none"));
        assert!(error.contains("is not a folder"), "{error}");
        assert!(!names(folder.path()).iter().any(|name| name.starts_with(".out") || name == "out"));
    });
}

/// A second stage starts from the checkpoint of a first one, whose base was moved.
#[test]
fn of_an_earlier_stage_are_found() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (base, moved) = (base(folder.path()), folder.path().join("moved"));
        let mut finetune = crate::weights::finetune(&base);
        let model = finetune.model.as_llava_mut().unwrap();
        (model.freeze_language_model, model.freeze_vision_model) = (true, true);
        let first = trained(&folder.path().join("first"), &finetune, ONE);
        finetune = crate::weights::finetune(&first.path);
        lora(&mut finetune);
        let second = trained(&folder.path().join("second"), &finetune, ONE);
        let below = |name: &str| folder.path().join(name);
        exported(&second.path, &below("before"), ExportFormat::Hf, |_| {}).unwrap();
        std::fs::rename(&base, &moved).unwrap();
        let error = exported(&second.path, &below("out"), ExportFormat::Hf, |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("which is not there"), "{error}");
        exported(&second.path, &below("after"), ExportFormat::Hf, |request| {
            request.base = vec![moved.clone()]
        })
        .unwrap();
        // Both were moved.
        let stage = below("stage");
        std::fs::rename(&first.path, &stage).unwrap();
        exported(&second.path, &below("both"), ExportFormat::Hf, |request| {
            request.base = vec![moved.clone(), stage.clone()];
        })
        .unwrap();
        let expected = tensors(&below("before"));
        for name in ["after", "both"] {
            let got = tensors(&below(name));
            assert!(expected.iter().all(|(name, tensor)| got[name].equal(tensor)), "{name}");
        }
    });
}

#[test]
fn are_refused_where_there_are_none() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = base(folder.path());
        let checkpoint = trained(folder.path(), &crate::setting::small(), ONE);
        for source in [&checkpoint.path, &base] {
            let error = exported(source, &folder.path().join("out"), ExportFormat::Hf, |request| {
                request.base = vec![base.clone()]
            });
            let error = error.unwrap_err().to_string();
            assert!(error.contains("fresh weights") || error.contains("has no base"), "{error}");
        }
    });
}
