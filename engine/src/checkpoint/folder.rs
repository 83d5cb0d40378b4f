//! A checkpoint of ours: a folder that appears under its name only when it is complete.
//!
//! | file | holds |
//! |---|---|
//! | `checkpoint.json` | format number, step, data position |
//! | `run.json` | the resolved run: with it, whatever is not trained can be made again |
//! | `model.safetensors` | trained parameters in fp32, by full name, whole |
//! | `optimizer.safetensors` | `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step` |
//! | `tokenizer.json`, `tokenizer_config.json`, `preprocessor_config.json` | what text and pictures went through |

use crate::error::{EngineError, Result};
use neva_schemas::Run;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// Format number of `checkpoint.json`.
pub const CHECKPOINT_FORMAT: u32 = 1;

/// `checkpoint.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Format number, [`CHECKPOINT_FORMAT`].
    pub format: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// Optimizer steps that are done.
    pub steps_done: u64,
    /// Samples that were trained on: the data position, the same for every layout.
    pub consumed_samples: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
}

/// An opened checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    /// The folder.
    pub path: PathBuf,
    /// `checkpoint.json`.
    pub state: CheckpointState,
    /// `run.json`.
    pub run: Run,
}

impl CheckpointFolder {
    /// Whether `path` looks like a checkpoint of ours.
    pub fn is_one(path: &Path) -> bool {
        path.join("checkpoint.json").is_file()
    }

    /// Opens a checkpoint.
    ///
    /// # Errors
    /// It is not one, not whole, or of another format.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join("checkpoint.json");
        if !path.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(EngineError::Io {
                action: "open checkpoint",
                path: path.to_owned(),
                source,
            });
        }
        let state: CheckpointState = read_json(&file)?;
        if state.format != CHECKPOINT_FORMAT {
            return Err(EngineError::Content {
                path: file,
                reason: format!("format {}, this program reads format {CHECKPOINT_FORMAT}", state.format),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            state,
            run: read_json(&path.join("run.json"))?,
        })
    }

    /// File of the trained parameters.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// File of the optimizer's state.
    pub fn optimizer(&self) -> PathBuf {
        self.path.join("optimizer.safetensors")
    }
}

/// The complete checkpoint with the most steps among the folders directly in `parents`; the latest of the
/// parents wins a tie.
pub fn newest_checkpoint(parents: &[PathBuf]) -> Option<CheckpointFolder> {
    let checkpoints = parents.iter().flat_map(|parent| checkpoints_in(parent));
    checkpoints.max_by(|a, b| (a.state.steps_done, &a.path).cmp(&(b.state.steps_done, &b.path)))
}

/// The complete checkpoints directly in `parent`, in no order. Those that are being written have names with a
/// leading dot; one that cannot be opened is passed over, and named in the log.
pub(super) fn checkpoints_in(parent: &Path) -> Vec<CheckpointFolder> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let folders = visible.map(|entry| entry.path()).filter(|path| CheckpointFolder::is_one(path));
    let open = |path: PathBuf| {
        CheckpointFolder::open(&path)
            .inspect_err(|error| tracing::warn!("passing over the checkpoint {}: {error}", path.display()))
            .ok()
    };
    folders.filter_map(open).collect()
}

/// Reads a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
