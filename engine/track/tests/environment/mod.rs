//! The programs out of PyPI that `make setup` installed, and metrics to hand them.

use std::path::PathBuf;

use neva_track::{StepMetrics, ValidationMetrics};

/// The virtual environment's Python.
///
/// # Panics
/// It is not there.
pub(crate) fn python() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("NEVA_TRACK_VENV").unwrap_or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        // `python/setup.py` makes the same name.
        let pins = include_str!("../python/requirements.txt").lines().filter_map(|line| line.split_once("=="));
        let name = pins.fold("track-venv".to_owned(), |name, (_, version)| format!("{name}-{version}"));
        cache.expect("HOME is set").join("neva-run").join(name)
    });
    let python = folder.join("bin/python");
    assert!(
        folder.join("neva-setup.txt").is_file() && python.exists(),
        "TensorBoard and MLflow are not in {}: run `make setup`",
        folder.display()
    );
    python
}

/// A step whose values tell its number.
pub(crate) fn step(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        reduced_train_loss: 8.0 / (step + 1) as f64,
        lr: 0.0,
        grad_norm: 1.5,
        consumed_samples: 32 * (step + 1),
        seconds: 0.25,
        tokens_per_second: 4096.0,
        label_tokens: 100 + step,
        zero_label_samples: 0,
        text_only_microbatches: 0,
        skipped_steps: 0,
        peak_memory_gib: 2.5,
    }
}

/// The validation after `step`.
pub(crate) fn validation(step: u64) -> ValidationMetrics {
    ValidationMetrics {
        step,
        val_loss: 4.0 + step as f64,
        val_label_tokens: 10,
        val_samples: 2,
        seconds: 0.5,
    }
}
