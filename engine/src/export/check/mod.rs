//! The check at the end of every export. It reads what was written, as the program that will read it does.
//!
//! 1. Each tensor that the run trained is in a key that the reader loads, with its value; no key is one that the reader
//!    ignores, and none is missing. The keys come from tables of the readers, not from those that the export is written with.
//! 2. The logits of a canary prompt, computed from the tensors under these keys, equal those of the run, and differ from
//!    those of the base as far as the run's do. The model is computed layer by layer: one layer is in memory. Where every
//!    tensor is the run's byte by byte and there is no base, the logits are equal without being computed.

mod adapter_config;
mod canary;
mod chunk;
mod compare;
mod expected;
mod forward;
mod found;
mod logits;
mod reading;
mod unchanged;

use super::source::Source;
use crate::checkpoint::{Base, CheckpointFolder, ModelCache};
use crate::error::{EngineError, Result};
use crate::model::Models;
use compare::Formula;
use expected::Expected;
pub(super) use found::CanaryTensors;
use found::Found;
pub(super) use logits::Logits;
use neva_layout::Adapters;
use neva_schemas::{ExportFormat, Finetune, NameLayout, Reader};
use reading::Reading;
use std::fmt;
use std::path::{Path, PathBuf};

/// What to check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The written folder, for messages.
    pub(crate) dir: &'a Path,
    /// Folder of the whole model, if one was written.
    pub(crate) model: Option<&'a Path>,
    /// Folder of the adapter, if one was written.
    pub(crate) adapter: Option<&'a Path>,
    /// Format, names and reader.
    pub(crate) form: (ExportFormat, NameLayout, Reader),
    /// The exported run, or the defaults for a folder without one.
    pub(crate) finetune: &'a Finetune,
    /// Its checkpoint.
    pub(crate) checkpoint: Option<&'a CheckpointFolder>,
    /// Source of the parameters that the checkpoint does not hold.
    pub(crate) base: &'a Base,
    /// The same run, opened.
    pub(crate) source: &'a Source,
}

impl Subject<'_> {
    /// Returns the program that reads the export, for people.
    fn reader(&self) -> &'static str {
        match self.form {
            (ExportFormat::Neva, ..) => "neva-run",
            (ExportFormat::Llava, ..) => "LLaVA's code",
            (_, _, Reader::Transformers) => "transformers",
            (_, _, Reader::Peft) => "PEFT",
            (_, _, Reader::Vllm) => "vLLM",
        }
    }
}

/// Result of a check without problems.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Checked {
    /// Number of tensors that the run trained, or that several adapters change.
    pub trained: usize,
    /// Program that loads them, for people.
    pub reader: &'static str,
    /// Largest difference between the logits of the export and of the run; `None` for several merged adapters: no run has their
    /// logits, and the values of tensors were compared.
    pub from_run: Option<f64>,
    /// Largest difference between the logits of the export and of the base; `None` if the run trained nothing.
    pub from_base: Option<f64>,
    /// Every tensor is the run's byte by byte, and there is no base to compare with: the logits are equal, and were not computed.
    pub identical: bool,
    /// Largest difference between the logits of the run with the weights of its base, which the export has, and with those in
    /// 4 bits that it computed with; `None` if it had none.
    pub from_four_bits: Option<f64>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trained, reader, from_run, ..
        } = self;
        let Some(from_run) = *from_run else {
            return write!(
                f,
                "checked: {trained} of {trained} merged tensors in keys that {reader} loads; every tensor has the value of the formula"
            );
        };
        write!(f, "checked: {trained} of {trained} trained tensors in keys that {reader} loads")?;
        let difference = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
        if self.identical {
            return write!(f, "; every tensor has the bytes of the source, so the logits are equal");
        }
        write!(f, "; canary logits differ by {} from the run's", difference(from_run))?;
        if let Some(from_base) = self.from_base {
            write!(f, ", by {} from the base's", difference(from_base))?;
        }
        match self.from_four_bits {
            Some(from) => write!(
                f,
                "; the run computed with its base in 4 bits, the export has the base itself, which changes the logits by {}",
                difference(from)
            ),
            None => Ok(()),
        }
    }
}

/// Checks an export.
///
/// # Errors
/// Every tensor that the reader would not load or that has another value; logits that are not the run's.
pub(crate) fn check(subject: &Subject<'_>, logits: Logits, models: &Models, cache: &ModelCache) -> Result<(Checked, CanaryTensors)> {
    let table = models.resolve(&subject.finetune.model)?;
    let reading = Reading::open(subject, &table)?;
    let expected = Expected::open(subject, &table, cache)?;
    let mut problems = reading.problems(&expected);
    if problems.is_empty() {
        problems = adapter_config::problems(subject, &expected)?;
    }
    fail(subject, problems)?;
    let found = logits::compare(subject, (models, &table), &expected, &reading, logits)?;
    fail(subject, found.problems())?;
    let checked = Checked {
        trained: expected.trained().len(),
        reader: subject.reader(),
        from_run: Some(found.from_run),
        from_base: found.from_base,
        identical: found.identical,
        from_four_bits: found.from_four_bits,
    };
    Ok((checked, found.canary))
}

/// Checks a whole model of several merged adapters: that its reader loads every tensor and ignores none, and that each has the
/// value that `formula` returns, with whether an adapter changes it.
///
/// # Errors
/// Every tensor that is missing, ignored or of another value; a copied tensor that holds NaN or infinite values.
pub(crate) fn check_formula(subject: &Subject<'_>, formula: &Formula<'_>, models: &Models, cache: &ModelCache) -> Result<Checked> {
    let table = models.resolve(&subject.finetune.model)?;
    let subject = Subject {
        checkpoint: None,
        ..*subject
    };
    let reading = Reading::open(&subject, &table)?;
    let expected = Expected::open(&subject, &table, cache)?;
    fail(&subject, reading.problems(&expected))?;
    let mut found = Found::new(unchanged::unchanged(&expected, &reading)?, Adapters::default());
    let changed = tch::no_grad(|| found.compare_formula(&reading, &expected.rows, formula))?;
    fail(&subject, found.problems())?;
    Ok(Checked {
        trained: changed,
        reader: subject.reader(),
        from_run: None,
        from_base: None,
        identical: false,
        from_four_bits: None,
    })
}

fn fail(subject: &Subject<'_>, problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(EngineError::Export {
        path: subject.dir.to_owned(),
        reader: subject.reader(),
        problems,
    })
}

/// A file of the export, for messages.
fn shown(path: &Path) -> String {
    let mut parts: Vec<_> = path.iter().rev().take(2).collect();
    parts.reverse();
    parts.iter().collect::<PathBuf>().display().to_string()
}
