//! A checkpoint of this program: a folder that appears under its name only when it is complete.
//!
//! | file | holds |
//! |---|---|
//! | `checkpoint.json` | format number, step, data position, metrics, base, checksums of the other files |
//! | `checkpoint.blake3` | BLAKE3 of `checkpoint.json` |
//! | `run.json` | the resolved run, from which untrained parameters are rebuilt |
//! | `model.safetensors` | trained parameters in fp32, by full name, as whole tensors, if one rank wrote them |
//! | `optimizer.safetensors` | `NAME.<moment>`, `NAME.step`, likewise; `LINEAR.fp8_scale`, `LINEAR.fp8_amax_history` |
//! | `model-N-of-M.safetensors`, `optimizer-N-of-M.safetensors` | shards of one of several ranks: rectangles `NAME[rows,columns]` |
//! | `pieces.json` | if several ranks wrote: the rectangles that make up each tensor |
//! | `tokenizer.json`, `tokenizer_config.json`, `preprocessor_config.json` | tokenizer and image processor of the data |
//!
//! While `NAME` is being written, a marker file `NAME-unfinished` lies beside it, as in NeMo, and the folder is called
//! `.NAME.writing`. The first rank locks the marker while it writes: a marker without a lock was left by a killed run.
//! A folder with a locked marker is skipped, and so is one called `NAME-damaged`. The newest checkpoint is found by
//! `checkpoint.json`, never by name: the suffix `-last` is for people and scripts (`last_suffix.rs`).

use super::checksum::{verify, verify_file, verify_table};
use super::json::read_json;
use super::state::{BaseReference, CHECKPOINT_FORMAT, CheckpointState};
use super::stored_tensors::StoredTensors;
use crate::error::{EngineError, OPEN_CHECKPOINT, Result};
use neva_schemas::{Problem, Run};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Suffix of the marker's name.
pub(super) const UNFINISHED: &str = "-unfinished";
/// Suffix of a folder that is being removed.
pub(super) const REMOVING: &str = ".removing";
/// Suffix of a folder that was found damaged.
pub(super) const DAMAGED: &str = "-damaged";

/// The fields of `checkpoint.json` that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
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
    /// Checks that the checkpoint was trained on the base `own`. An adapter on other weights is useless. `path` is the
    /// setting that names the checkpoint.
    ///
    /// # Errors
    /// It was trained on another base.
    pub fn check_base(&self, own: &BaseReference, path: &str) -> Result<()> {
        if own.same_weights(&self.state.base) {
            return Ok(());
        }
        let (theirs, ours) = (&self.state.base, own);
        Err(EngineError::Run(vec![
            Problem::error(
                path,
                format!("{} was trained on {theirs}, this run starts from {ours}", self.path.display()),
            )
            .help("name the base that it was trained on: --set finetune.resume.restore_config.path=DIR"),
        ]))
    }

    /// Returns true if `path` looks like a checkpoint of this program.
    pub fn is_checkpoint(path: &Path) -> bool {
        path.join("checkpoint.json").is_file()
    }

    /// Opens a checkpoint.
    ///
    /// # Errors
    /// `path` is not a checkpoint, not whole, or of another format.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join("checkpoint.json");
        if !path.is_dir() {
            let reason = if path.exists() {
                "it is a file, not a folder"
            } else {
                "there is no such folder"
            };
            let source = std::io::Error::new(ErrorKind::NotFound, reason);
            return Err(EngineError::Io {
                action: OPEN_CHECKPOINT,
                path: path.to_owned(),
                source,
            });
        }
        // The format comes first: the fields of other formats are unknown.
        let damaged = |error| damaged_or(verify_table(path), error);
        let Format { format } = read_json(&file).map_err(damaged)?;
        if format != CHECKPOINT_FORMAT {
            return Err(EngineError::Content {
                path: file,
                reason: format!("format {format}, this program reads format {CHECKPOINT_FORMAT}"),
            });
        }
        let state: CheckpointState = read_json(&file).map_err(damaged)?;
        let run = path.join("run.json");
        let sum = state.files.get("run.json");
        Ok(Self {
            run: read_json(&run).map_err(|error| damaged_or(sum.map_or(Ok(()), |sum| verify_file(&run, sum)), error))?,
            path: path.to_owned(),
            state,
        })
    }

    /// Returns the number of completed optimizer steps.
    pub fn steps_done(&self) -> u64 {
        self.state.progress.steps_done
    }

    /// Opens the trained parameters, in fp32.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn model(&self) -> Result<StoredTensors> {
        StoredTensors::model(&self.path)
    }

    /// Opens the optimizer state: moments and step counts.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn optimizer(&self) -> Result<StoredTensors> {
        StoredTensors::optimizer(&self.path)
    }

    /// Checks every file against its checksum.
    ///
    /// # Errors
    /// A file is missing, truncated or damaged.
    pub fn verify(&self) -> Result<()> {
        verify(&self.path, &self.state.files)
    }
}

/// Returns true if nothing has this name any more. A broken link and an unreadable file still have it.
pub(super) fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| is_absent(&error))
}

/// Returns true for the errors of a path that does not exist.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Removes a checkpoint atomically: half of one must not be taken for a checkpoint.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let removing = path.with_file_name(format!(".{name}{REMOVING}"));
    std::fs::rename(path, &removing)?;
    std::fs::remove_dir_all(&removing)
}

/// Returns the format of the checkpoint in `path`, if it states one.
pub(super) fn format_of(path: &Path) -> Option<u32> {
    let Format { format } = read_json(&path.join("checkpoint.json")).ok()?;
    Some(format)
}

/// Returns the damage as the reason why a file cannot be parsed, or else `error`.
fn damaged_or(verified: Result<()>, error: EngineError) -> EngineError {
    match verified {
        Err(damage @ EngineError::Content { .. }) => damage,
        _ => error,
    }
}
