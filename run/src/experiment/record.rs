//! Record of an experiment: everything that is needed to run it again, as a file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use neva_schemas::{ExecutorConfig, ExperimentConfig, Script, TaskSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::ExperimentError;
use crate::{error::RunError, executor};

/// File in an experiment's folder.
pub(super) const RECORD_FILE: &str = "experiment.json";

/// Format number of the file. A reader refuses others.
pub(super) const RECORD_FORMAT: u32 = 1;

/// An experiment as it was started. It holds no secrets: these stay in the environment of the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Format number.
    pub format: u32,
    /// The experiment's id.
    pub id: String,
    /// Creation time in milliseconds since the epoch.
    pub created: u64,
    /// Version of the program that created it.
    pub version: String,
    /// Id of the experiment that it reruns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
    /// Folder to which paths are relative, and in which scripts start.
    pub working_directory: PathBuf,
    /// Default executor of tasks.
    pub executor: ExecutorConfig,
    /// Files of fine-tunes are not checked before these start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_preflight: bool,
    /// Texts of script files, by absolute path.
    pub scripts: BTreeMap<PathBuf, String>,
    /// BLAKE3 hashes of the annotation files of fine-tunes, by absolute path; `null` for a file that did not exist when
    /// the experiment started, such as data that one of its tasks creates.
    pub data: BTreeMap<PathBuf, Option<String>>,
    /// The experiment, with every recipe resolved and every sweep expanded.
    pub experiment: ExperimentConfig,
}

impl ExperimentRecord {
    pub(super) fn read(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(RECORD_FILE);
        let record = read_json(&path, RECORD_FORMAT)?;
        record.ok_or_else(|| file_error("read", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Returns true if a task trains.
    pub(super) fn has_finetunes(&self) -> bool {
        self.experiment
            .tasks
            .values()
            .any(|task| matches!(task.task, TaskSpec::Finetune(_)))
    }

    /// Returns true if a fine-tune starts the rank program of this machine.
    pub(super) fn needs_rank_program(&self) -> bool {
        let mut tasks = self.experiment.tasks.values();
        tasks.any(|task| {
            let executor = task.executor.as_ref().unwrap_or(&self.executor);
            matches!(task.task, TaskSpec::Finetune(_)) && executor::needs_own_program(executor)
        })
    }

    /// Returns the text of `script`. A script file was read when the experiment was prepared.
    pub(super) fn script_text(&self, script: &Script) -> String {
        let stored = script
            .path
            .as_ref()
            .and_then(|path| self.scripts.get(&absolute(&self.working_directory, path)));
        stored.or(script.inline.as_ref()).cloned().unwrap_or_default()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        write_json(&folder.join(RECORD_FILE), self)
    }
}

/// Reads a record of the store; `None` if it does not exist.
///
/// # Errors
/// It cannot be read, is damaged, or its format number is not `expected`.
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

/// Writes a record atomically and syncs it to disk.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write_atomically(path, value, File::sync_data)
}

/// Writes a record atomically, without syncing it: for records that are written again after a crash of the machine.
pub(super) fn write_json_unsynced(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write_atomically(path, value, |_| Ok(()))
}

fn write_atomically(path: &Path, value: &impl Serialize, sync: impl FnOnce(&File) -> io::Result<()>) -> Result<(), RunError> {
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
        // Removes the partial file, if possible.
        let _ = fs::remove_file(&partial);
        file_error("write", path)(source)
    })
}

/// Returns a function that makes an error of the store's file at `path`.
pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |source| {
        let path = path.to_owned();
        ExperimentError::File { action, path, source }.into()
    }
}

/// Returns `path` relative to `folder` as an absolute path.
pub(super) fn absolute(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}
