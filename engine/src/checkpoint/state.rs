//! `checkpoint.json`: the state of a run.

use super::checksum::Checksums;
use crate::optim::LossScaleState;
use neva_data::RowStart;
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
    /// Progress of the run.
    pub progress: RunProgress,
    /// Source of the untrained parameters.
    pub base: BaseReference,
    /// True if the checkpoint holds the optimizer's state, so that a run can resume from it.
    pub optimizer: bool,
    /// True if the checkpoint holds all parameters of the model, and not only those that its run trained: an export.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// Length and checksum of every other file.
    pub files: Checksums,
}

/// Progress of a run: everything besides weights and moments that the next step depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunProgress {
    /// Completed optimizer steps.
    pub steps_done: u64,
    /// Steps of the whole run, which is the schedule's length.
    pub total_steps: u64,
    /// Samples that were trained on: the data position, equal in every layout.
    pub consumed_samples: u64,
    /// True if the run is complete.
    pub finished: bool,
    /// Latest metrics by name.
    pub metrics: BTreeMap<String, f64>,
    /// Steps skipped because the loss or the gradient was not finite.
    pub skipped_steps: u64,
    /// Consecutive skipped steps.
    pub skipped_in_a_row: u64,
    /// Losses of the last steps, which the next loss is compared with.
    pub recent_losses: Vec<f64>,
    /// Loss scale of the next step, with fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleState>,
    /// Kernels of the processor that computed the last steps; absent on a GPU. Others give other last bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<String>,
    /// Start of the packed rows that follow, with packing over a buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_start: Option<RowStart>,
    /// State of each callback, in the recipe's order.
    pub callbacks: Vec<Value>,
}

/// The base weights of a run.
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
    /// A checkpoint of this program.
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
    /// Separate folders for some parts of the model.
    Parts {
        /// The language model, if it has its own source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        language_model: Option<Box<Self>>,
        /// The vision encoder, if it has its own source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vision_model: Option<Box<Self>>,
        /// The projector, if it has its own source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vision_projection: Option<Box<Self>>,
        /// All other parts.
        rest: Box<Self>,
    },
}

impl BaseReference {
    /// Returns true if both have the same weights, even in different folders.
    pub fn same_weights(&self, other: &Self) -> bool {
        let parts = |a: &Option<Box<Self>>, b: &Option<Box<Self>>| match (a, b) {
            (Some(a), Some(b)) => a.same_weights(b),
            (None, None) => true,
            _ => false,
        };
        match (self, other) {
            (Self::Seed { seed: a }, Self::Seed { seed: b }) => a == b,
            (Self::HuggingFace { blake3: a, .. }, Self::HuggingFace { blake3: b, .. })
            | (Self::Checkpoint { blake3: a, .. }, Self::Checkpoint { blake3: b, .. }) => a == b,
            (
                Self::Parts {
                    language_model,
                    vision_model,
                    vision_projection,
                    rest,
                },
                Self::Parts {
                    language_model: other_language_model,
                    vision_model: other_vision_model,
                    vision_projection: other_vision_projection,
                    rest: other_rest,
                },
            ) => {
                parts(language_model, other_language_model)
                    && parts(vision_model, other_vision_model)
                    && parts(vision_projection, other_vision_projection)
                    && rest.same_weights(other_rest)
            }
            _ => false,
        }
    }
}

impl fmt::Display for BaseReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HuggingFace { path, blake3 } => write!(f, "the weights {} in {}", short(blake3), path.display()),
            Self::Checkpoint { path, blake3 } => write!(f, "the checkpoint {} in {}", short(blake3), path.display()),
            Self::Seed { seed } => write!(f, "fresh weights of seed {seed}"),
            Self::Parts {
                language_model,
                vision_model,
                vision_projection,
                rest,
            } => {
                let parts = [
                    ("language model", language_model),
                    ("vision encoder", vision_model),
                    ("projector", vision_projection),
                ];
                for (part, base) in parts {
                    if let Some(base) = base {
                        write!(f, "{base} for the {part}, ")?;
                    }
                }
                write!(f, "{rest} for the rest")
            }
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
