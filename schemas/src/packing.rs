//! Packing of several samples into a row, and groups of samples of similar length.

use crate::validate::{Problem, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Policy for samples that are longer than `seq_length` or than a packed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PackingOversize {
    /// They are truncated on the right.
    #[default]
    Truncate,
    /// They are left out, and counted in the log and in `effects.json`.
    Skip,
}

/// Packing over more samples than those of a forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// Maximum number of positions of a row.
    pub row_length: usize,
    /// Maximum number of positions of a sample.
    pub max_length: usize,
    /// Number of samples that are packed together; `None` if all are, ahead of time.
    pub buffer: Option<usize>,
    /// File of a packed set.
    pub set: Option<PathBuf>,
    /// Policy for longer samples.
    pub oversize: PackingOversize,
}

/// The settings of packing of a data module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackingSettings<'a> {
    pub(crate) seq_length: usize,
    pub(crate) packed_sequence_size: Option<usize>,
    pub(crate) packing_buffer_size: Option<usize>,
    pub(crate) packing_oversize: PackingOversize,
    pub(crate) packed_set: Option<&'a Path>,
    pub(crate) use_packed_sequence: bool,
    pub(crate) group_by_modality_length: bool,
}

impl PackingSettings<'_> {
    /// Returns the packing, if samples are packed over a buffer or ahead of time.
    pub(crate) fn packing(self) -> Option<Packing> {
        if self.packing_buffer_size.is_none() && self.packed_set.is_none() {
            return None;
        }
        let row_length = self.packed_sequence_size.unwrap_or(self.seq_length);
        Some(Packing {
            row_length,
            max_length: self.seq_length.min(row_length),
            buffer: self.packing_buffer_size,
            set: self.packed_set.map(Path::to_owned),
            oversize: self.packing_oversize,
        })
    }

    /// Appends the problems of the settings.
    pub(crate) fn validate(self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(
            path,
            problems,
            &[
                ("packed_sequence_size", self.packed_sequence_size.unwrap_or(1) as u64),
                ("packing_buffer_size", self.packing_buffer_size.unwrap_or(1) as u64),
            ],
        );
        if self.packing().is_none() {
            if self.packed_sequence_size.is_some() {
                let message = "`packed_sequence_size` has no effect: no samples are packed over a buffer";
                let help = "set packing_buffer_size, for example 1000; use_packed_sequence packs the samples of a forward pass \
                            into rows of seq_length";
                problems.push(Problem::error(format!("{path}.packed_sequence_size"), message).help(help));
            }
            if self.packing_oversize == PackingOversize::Skip {
                let message = "`packing_oversize` has no effect: no samples are packed over a buffer";
                problems.push(Problem::error(format!("{path}.packing_oversize"), message).help("set packing_buffer_size, or remove it"));
            }
        }
        if self.group_by_modality_length && (self.packing().is_some() || self.use_packed_sequence) {
            let message = "samples are either packed or grouped by length: packed rows have no padding that groups would save";
            problems.push(Problem::error(format!("{path}.group_by_modality_length"), message).help("set it to false"));
        }
    }
}
