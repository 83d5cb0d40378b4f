//! A checkpoint of ours: a folder that appears under its name only when it is complete.
//!
//! | file | holds |
//! |---|---|
//! | `checkpoint.json` | format number, step, data position, metrics, base, checksums of the other files |
//! | `checkpoint.blake3` | BLAKE3 of `checkpoint.json` |
//! | `run.json` | the resolved run: with it, whatever is not trained can be made again |
//! | `model.safetensors` | trained parameters in fp32, by full name, whole, where one rank wrote them |
//! | `optimizer.safetensors` | `NAME.<moment>`, `NAME.step`, likewise |
//! | `model-N-of-M.safetensors`, `optimizer-N-of-M.safetensors` | what one of several ranks wrote: rectangles `NAME[rows,columns]` |
//! | `pieces.json` | of several ranks: which rectangles each tensor is made of |
//! | `tokenizer.json`, `tokenizer_config.json`, `preprocessor_config.json` | what text and pictures went through |
//!
//! While `NAME` is written there is a file `NAME-unfinished` beside it, as NeMo has it, and the folder is called
//! `.NAME.writing`. A folder whose marker is there is passed over, and so is one called `NAME-damaged`. Which is the
//! newest is read in `checkpoint.json`, never off the name: that ends in `-last` for people and scripts (`last.rs`).

use super::checksum::{verify, verify_file, verify_table};
use super::pieces::StoredTensors;
use super::state::{CHECKPOINT_FORMAT, CheckpointState};
use crate::error::{EngineError, Result};
use neva_schemas::Run;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// End of the marker's name.
pub(super) const UNFINISHED: &str = "-unfinished";
/// End of the name of a folder that was found damaged.
pub(super) const DAMAGED: &str = "-damaged";
/// Times that folders are looked through while checkpoints in them are renamed and removed.
const LOOKS: usize = 8;

/// What `checkpoint.json` holds in every format.
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
        // Before anything else: what another format holds is not known.
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

    /// Opens a checkpoint, or the newest one of a run's folder.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn find(path: &Path) -> Result<Self> {
        if Self::is_one(path) || !path.is_dir() {
            return Self::open(path);
        }
        newest_checkpoint(&[path.join("checkpoints"), path.to_owned()], |_| ()).ok_or_else(|| EngineError::Content {
            path: path.to_owned(),
            reason: "is neither a checkpoint nor the folder of a run that has one".into(),
        })
    }

    /// Optimizer steps that were done.
    pub fn steps_done(&self) -> u64 {
        self.state.progress.steps_done
    }

    /// The trained parameters, in fp32.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn model(&self) -> Result<StoredTensors> {
        StoredTensors::model(&self.path)
    }

    /// Moments and step counts.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn optimizer(&self) -> Result<StoredTensors> {
        StoredTensors::optimizer(&self.path)
    }

    /// Checks every file against its checksum.
    ///
    /// # Errors
    /// One is missing, truncated or damaged.
    pub fn verify(&self) -> Result<()> {
        verify(&self.path, &self.state.files)
    }
}

/// The whole checkpoint with the most steps among the folders directly in `parents`; the latest of the parents
/// wins a tie. Each is checked before it is chosen: a damaged one is named in the log, and handed to `damaged`.
/// One that a run still at work renames or removes meanwhile is looked for again.
pub fn newest_checkpoint(parents: &[PathBuf], damaged: impl Fn(&Path)) -> Option<CheckpointFolder> {
    settled(|| look(parents, &damaged))
}

/// What is seen of folders.
#[derive(Default)]
struct Seen<T> {
    found: T,
    /// One of them went from its place meanwhile.
    moved: bool,
}

/// What is found when nothing moves while it is looked for; after [`LOOKS`] times, what was found.
fn settled<T>(look: impl Fn() -> Seen<T>) -> T {
    let mut seen = look();
    for _ in 1..LOOKS {
        if !seen.moved {
            break;
        }
        seen = look();
    }
    seen.found
}

fn look(parents: &[PathBuf], damaged: &impl Fn(&Path)) -> Seen<Option<CheckpointFolder>> {
    let (mut checkpoints, mut moved) = (Vec::new(), false);
    for parent in parents {
        let seen = open_all(parent, damaged);
        checkpoints.extend(seen.found);
        moved |= seen.moved;
    }
    checkpoints.sort_by(|a, b| (b.steps_done(), &b.path).cmp(&(a.steps_done(), &a.path)));
    for checkpoint in checkpoints {
        let Err(error) = checkpoint.verify() else {
            let found = Some(checkpoint);
            return Seen { found, moved };
        };
        if is_gone(&checkpoint.path) {
            moved = true;
            continue;
        }
        let path = checkpoint.path.display();
        tracing::warn!("the checkpoint {path} is damaged, an older one is looked for: {error}");
        damaged(&checkpoint.path);
    }
    Seen { found: None, moved }
}

/// The finished checkpoints directly in `parent`, in no order; one that cannot be opened is passed over, and
/// named in the log.
pub(super) fn checkpoints_in(parent: &Path) -> Vec<CheckpointFolder> {
    settled(|| open_all(parent, &|_: &Path| ()))
}

/// The same; what cannot be opened is handed to `damaged`, unless it is of another format.
fn open_all(parent: &Path, damaged: &impl Fn(&Path)) -> Seen<Vec<CheckpointFolder>> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(std::result::Result::ok);
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let mut seen = Seen::<Vec<_>>::default();
    for (name, path) in named.filter(|(name, _)| !name.starts_with('.') && !name.ends_with(DAMAGED)) {
        if !CheckpointFolder::is_one(&path) {
            seen.moved |= is_gone(&path);
            continue;
        }
        if parent.join(format!("{name}{UNFINISHED}")).exists() {
            tracing::warn!("passing over the checkpoint {}: it is unfinished", path.display());
            continue;
        }
        match CheckpointFolder::open(&path) {
            Ok(checkpoint) => seen.found.push(checkpoint),
            Err(_) if is_gone(&path) => seen.moved = true,
            Err(error) => {
                tracing::warn!("passing over the checkpoint {}: {error}", path.display());
                if format_of(&path).is_none_or(|format| format == CHECKPOINT_FORMAT) {
                    damaged(&path);
                }
            }
        }
    }
    seen
}

/// Whether nothing has this name any more. A link that leads nowhere has it.
fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err()
}

/// Removes a checkpoint, or none of it: half of one must not be taken for a checkpoint.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.removing"));
    std::fs::rename(path, &aside)?;
    std::fs::remove_dir_all(&aside)
}

/// The format of the checkpoint in `path`, where it says one.
fn format_of(path: &Path) -> Option<u32> {
    let Format { format } = read_json(&path.join("checkpoint.json")).ok()?;
    Some(format)
}

/// Why a file of ours cannot be understood: it is damaged, or else `error`.
fn damaged_or(verified: Result<()>, error: EngineError) -> EngineError {
    match verified {
        Err(damage @ EngineError::Content { .. }) => damage,
        _ => error,
    }
}

/// Reads a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(EngineError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
