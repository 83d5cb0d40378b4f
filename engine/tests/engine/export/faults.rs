//! Faults of an export: nothing partial is left, and nothing partial is read.

use super::{exported, fixture};
use crate::setting::{copy, names, rewrite, within_limit};
use neva_engine::checkpoint::SEAL;
use neva_engine::export::{ExportDtype, ExportFormat};
use neva_schemas::exit_class;
use std::path::Path;

const MODEL: &str = "llava_clip_llama";

#[test]
fn leave_nothing_behind() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        copy(&fixture(MODEL), &source);
        let out = folder.path().join("out");
        exported(&source, &out, ExportFormat::Hf, |_| {}).unwrap();

        // An existing folder is kept, unless it is to be overwritten and is a model.
        let error = exported(&source, &out, ExportFormat::Hf, |_| {}).unwrap_err();
        assert!(
            error.to_string().contains("exists already") && error.exit_code() == exit_class::INPUT,
            "{error}"
        );
        std::fs::write(out.join("old"), "").unwrap();
        exported(&source, &out, ExportFormat::Hf, |request| request.overwrite = true).unwrap();
        assert!(!out.join("old").exists() && out.join("config.json").is_file());
        let mine = folder.path().join("mine");
        std::fs::create_dir(&mine).unwrap();
        std::fs::write(mine.join("thesis.tex"), "").unwrap();
        let error = exported(&source, &mine, ExportFormat::Hf, |request| request.overwrite = true).unwrap_err();
        assert!(error.to_string().contains("is not the folder of a model"), "{error}");
        assert!(mine.join("thesis.tex").is_file());

        // Nor is what is read, by whatever name.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&source, &link).unwrap();
        for (read, out) in [(&source, &source), (&link, &source)] {
            let error = exported(read, out, ExportFormat::Hf, |request| request.overwrite = true).unwrap_err();
            assert!(error.to_string().contains("is read: it is not replaced"), "{error}");
            assert_eq!(names(&source), names(&fixture(MODEL)));
        }
        std::fs::remove_file(link).unwrap();

        // The remains of a killed export are replaced.
        let staging = folder.path().join(".next.writing");
        std::fs::create_dir(&staging).unwrap();
        std::fs::write(staging.join("tensors-00000.writing"), "half").unwrap();
        exported(&source, &folder.path().join("next"), ExportFormat::Hf, |_| {}).unwrap();
        assert_eq!(names(&folder.path().join("next")), names(&out));

        // A source that is damaged.
        let file = source.join("model.safetensors");
        let length = std::fs::metadata(&file).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(length - 1)
            .unwrap();
        let error = exported(&source, &folder.path().join("none"), ExportFormat::Hf, |_| {}).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
        // A folder that cannot be written.
        let error = exported(&fixture(MODEL), Path::new("/proc/none"), ExportFormat::Hf, |_| {}).unwrap_err();
        assert!(error.to_string().contains("cannot create"), "{error}");
        assert_eq!(names(folder.path()), ["mine", "next", "out", "source"]);
    });
}

/// Copies of an export that ended in the middle.
#[test]
fn of_a_copy_are_refused_by_readers() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (whole, neva) = (folder.path().join("whole"), folder.path().join("neva"));
        exported(&fixture(MODEL), &whole, ExportFormat::Hf, |request| {
            request.max_shard_size = 100_000
        })
        .unwrap();
        exported(&fixture(MODEL), &neva, ExportFormat::Neva, |_| {}).unwrap();
        let shard = names(&whole).into_iter().rfind(|name| name.ends_with(".safetensors")).unwrap();
        for (model, file, reason) in [
            (&whole, "config.json", "is neither a checkpoint nor the folder of a run"),
            (&whole, shard.as_str(), "cannot open"),
            (&whole, "model.safetensors.index.json", "holds neither model.safetensors nor"),
            (&neva, "model.safetensors", "cannot read"),
            (&neva, SEAL, "cannot read"),
            (&neva, "checkpoint.json", "is neither a checkpoint nor the folder of a run"),
        ] {
            let copied = folder.path().join("copied");
            copy(model, &copied);
            std::fs::remove_file(copied.join(file)).unwrap();
            let error = exported(&copied, &folder.path().join("out"), ExportFormat::Hf, |_| {})
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{file}: {error}");
            std::fs::remove_dir_all(&copied).unwrap();
        }
        // A checkpoint whose weights end early.
        let file = neva.join("model.safetensors");
        let length = std::fs::metadata(&file).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(length / 2)
            .unwrap();
        let error = exported(&neva, &folder.path().join("out"), ExportFormat::Hf, |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("truncated"), "{error}");
    });
}

/// Weights of which some are no numbers, in each way in which an export writes them.
#[test]
fn of_values_that_are_no_numbers() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        copy(&fixture(MODEL), &source);
        rewrite(&source.join("model.safetensors"), |tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name.contains("layers.1.mlp.up_proj")).unwrap();
            let _ = tensor.get(0).get(1).fill_(f64::INFINITY);
        });
        for (format, dtype) in [
            (ExportFormat::Hf, None),
            (ExportFormat::Neva, None),
            (ExportFormat::Hf, Some(ExportDtype::Bfloat16)),
        ] {
            let error = exported(&source, &folder.path().join("out"), format, |request| request.dtype = dtype).unwrap_err();
            assert!(
                error.to_string().contains("up_proj.weight` holds NaN or infinite values: 1 of "),
                "{error}"
            );
            assert_eq!(error.exit_code(), exit_class::INPUT);
            assert_eq!(names(folder.path()), ["source"]);
        }
    });
}
