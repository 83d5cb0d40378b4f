//! `checkpoint.json`: where a run stands.

use super::checksum::Checksums;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Format number of `checkpoint.json`.
pub const CHECKPOINT_FORMAT: u32 = 3;

/// `checkpoint.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Format number, [`CHECKPOINT_FORMAT`].
    pub format: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// How far the run had come.
    pub progress: RunProgress,
    /// What untrained parameters were, and are to be made from again.
    pub base: BaseReference,
    /// Whether the optimizer's state is there, so that a run can go on from it.
    pub optimizer: bool,
    /// Length and checksum of every other file.
    pub files: Checksums,
}

/// How far a run has come: all that the next step depends on beside weights and moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunProgress {
    /// Optimizer steps that are done.
    pub steps_done: u64,
    /// Steps of the whole run: the schedule's length.
    pub total_steps: u64,
    /// Samples that were trained on: the data position, the same for every layout.
    pub consumed_samples: u64,
    /// The run came to its end.
    pub finished: bool,
    /// Metrics by name, each as it was measured last.
    pub metrics: BTreeMap<String, f64>,
    /// Steps that changed nothing because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Such steps without another in between.
    pub skipped_in_a_row: u64,
    /// Losses of the last steps, which the next is compared with.
    pub recent_losses: Vec<f64>,
    /// State of each callback, in the run's order.
    pub callbacks: Vec<Value>,
}

/// What a run started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseReference {
    /// A Hugging Face folder.
    HuggingFace {
        /// The folder.
        path: PathBuf,
        /// BLAKE3 over its safetensors files.
        blake3: String,
    },
    /// A checkpoint of ours.
    Checkpoint {
        /// The folder.
        path: PathBuf,
        /// BLAKE3 of its `checkpoint.json`, which holds the checksums of its other files.
        blake3: String,
    },
    /// Fresh values.
    Seed {
        /// Their seed.
        seed: u64,
    },
}

impl fmt::Display for BaseReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HuggingFace { path, blake3 } => write!(f, "the weights {} in {}", short(blake3), path.display()),
            Self::Checkpoint { path, blake3 } => write!(f, "the checkpoint {} in {}", short(blake3), path.display()),
            Self::Seed { seed } => write!(f, "fresh weights of seed {seed}"),
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
