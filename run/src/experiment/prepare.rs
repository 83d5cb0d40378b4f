//! Preparation of an experiment's record: plugins, validation, texts of scripts, hashes of data.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_schemas::{self as schemas, Data, ExecutorConfig, MAX_SCRIPT_LENGTH, Script, Severity, TaskSpec, Validate as _};

use super::{
    error::ExperimentError,
    plugin::Plugin,
    record::{ExperimentRecord, RECORD_FORMAT, absolute, file_error},
};
use crate::{adapters, environment, error::RunError};

/// Creates the record of `experiment`, without an id.
pub(super) fn prepare(
    mut experiment: schemas::ExperimentConfig,
    executor: ExecutorConfig,
    working_directory: PathBuf,
    plugins: &[Arc<dyn Plugin>],
) -> Result<ExperimentRecord, RunError> {
    for plugin in plugins {
        for (name, task) in &mut experiment.tasks {
            plugin.before_launch(name, task)?;
        }
    }
    let problems = adapters::experiment_problems(&experiment)
        .into_iter()
        .chain(executor.problems("executor"));
    let errors: Vec<_> = problems.filter(|problem| problem.severity == Severity::Error).collect();
    if !errors.is_empty() {
        return Err(RunError::Invalid(errors));
    }
    let mut scripts = BTreeMap::new();
    for task in experiment.tasks.values() {
        if let TaskSpec::Script(Script { path: Some(path), .. }) = &task.task
            && let Entry::Vacant(entry) = scripts.entry(absolute(&working_directory, path))
        {
            let text = script_text(entry.key())?;
            entry.insert(text);
        }
    }
    Ok(ExperimentRecord {
        format: RECORD_FORMAT,
        id: String::new(),
        created: environment::unix_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rerun_of: None,
        working_directory,
        executor,
        no_preflight: false,
        scripts,
        data: BTreeMap::new(),
        experiment,
    })
}

fn script_text(path: &Path) -> Result<String, RunError> {
    let refused = |reason: &str| ExperimentError::ScriptText {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_SCRIPT_LENGTH + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_SCRIPT_LENGTH => Err(refused("is longer than 1 MiB").into()),
        Ok(_) => String::from_utf8(bytes).map_err(|_| refused("is not UTF-8").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(refused("does not exist").into()),
        Err(error) => Err(file_error("read", path)(error)),
    }
}

/// Hashes the annotation files of the fine-tunes of `record`. Not called by a dry run: the files may be large.
pub(super) fn data_hashes(record: &ExperimentRecord) -> BTreeMap<PathBuf, Option<String>> {
    let mut hashes = BTreeMap::new();
    for task in record.experiment.tasks.values() {
        let TaskSpec::Finetune(run) = &task.task else { continue };
        let paths: Vec<PathBuf> = match &run.finetune.data {
            Data::Preloaded(data) => data.paths.iter().chain(&data.val_paths).cloned().collect(),
            // The metadata of a prepared dataset name its shards; the identity is that of its samples.
            Data::Energon(data) if absolute(&record.working_directory, &data.path).is_dir() => {
                let meta = data.path.join(".nv-meta");
                [".info.json", "index.uuid", "split.yaml", "dataset.yaml"]
                    .map(|name| meta.join(name))
                    .into()
            }
            Data::Energon(data) => vec![data.path.clone()],
            Data::Mock(_) | Data::Custom(_) => Vec::new(),
        };
        for path in paths {
            let path = absolute(&record.working_directory, &path);
            hashes.entry(path).or_insert_with_key(|path| hash(path));
        }
    }
    hashes
}

/// Returns the BLAKE3 hash of a file; `None` if it cannot be read.
pub(super) fn hash(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}
