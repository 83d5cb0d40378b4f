//! What an experiment is, as a file: all that is needed to do it again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use neva_schemas::{Executor, Experiment, Script, Work};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{error::ExperimentError, lower::absolute};
use crate::error::RunError;

/// File in an experiment's folder.
pub(super) const RECORD_FILE: &str = "experiment.json";

/// Format number of the file. A reader refuses others.
pub(super) const RECORD_FORMAT: u32 = 1;

/// An experiment as it was started. No secret is in it: those stay in the environment of the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Format number.
    pub format: u32,
    /// The experiment's id.
    pub id: String,
    /// When it was created, in milliseconds since the epoch.
    pub created: u64,
    /// Version of the program that created it.
    pub version: String,
    /// The experiment of which it is a repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
    /// The folder from which relative paths are taken, and in which scripts start.
    pub working_directory: PathBuf,
    /// Where tasks run that name no executor.
    pub executor: Executor,
    /// Texts of the scripts that are files, by absolute path.
    pub scripts: BTreeMap<PathBuf, String>,
    /// Hashes of the annotations that fine-tunes read (BLAKE3), by absolute path; `null` for what was not there when
    /// the experiment started, as with data that one of its tasks makes.
    pub data: BTreeMap<PathBuf, Option<String>>,
    /// The experiment: every recipe resolved, every sweep spread out.
    pub experiment: Experiment,
}

impl ExperimentRecord {
    pub(super) fn read(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(RECORD_FILE);
        let record = read_json(&path, RECORD_FORMAT)?;
        record.ok_or_else(|| file_error("read", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Whether a task trains.
    pub(super) fn has_finetunes(&self) -> bool {
        self.experiment.tasks.values().any(|task| matches!(task.task, Work::Finetune(_)))
    }

    /// The text of `script`. That of a file was read when the experiment was prepared.
    pub(super) fn script_text(&self, script: &Script) -> String {
        let kept = script
            .path
            .as_ref()
            .and_then(|path| self.scripts.get(&absolute(&self.working_directory, path)));
        kept.or(script.inline.as_ref()).cloned().unwrap_or_default()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        write_json(&folder.join(RECORD_FILE), self)
    }
}

/// Reads a record of the store; `None` where it is not there.
///
/// # Errors
/// It cannot be read, is no record, or has another format number than `expected`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, expected: u32) -> Result<Option<T>, RunError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(file_error("read", path))?,
    };
    let damaged = |error: serde_json::Error| {
        let (path, reason) = (path.to_owned(), error.to_string());
        ExperimentError::Damaged { path, reason }
    };
    let Format { format: found } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if found != expected {
        let path = path.to_owned();
        return Err(ExperimentError::Format { path, found, expected }.into());
    }
    Ok(Some(serde_json::from_slice(&bytes).map_err(damaged)?))
}

/// Writes a record as a whole or not at all, and so that it lasts.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write_whole(path, value, File::sync_data)
}

/// As [`write_json`], for what is written anew should the machine fail.
pub(super) fn write_json_soon(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write_whole(path, value, |_| Ok(()))
}

fn write_whole(path: &Path, value: &impl Serialize, sync: impl FnOnce(&File) -> io::Result<()>) -> Result<(), RunError> {
    let partial = path.with_extension("json.partial");
    let write = || {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        let mut file = File::create(&partial)?;
        file.write_all(&text)?;
        sync(&file)?;
        fs::rename(&partial, path)
    };
    write().map_err(|source: io::Error| {
        // Half a file helps nobody; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&partial);
        file_error("write", path)(source)
    })
}

/// An error of the store's file at `path`.
pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |source| {
        let path = path.to_owned();
        ExperimentError::File { action, path, source }.into()
    }
}
