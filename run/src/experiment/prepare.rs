//! From an experiment to its record: plugins, checks, the texts of scripts; and the hashes of its data.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use neva_schemas::{self as schemas, Data, Executor, SCRIPT_LIMIT, Script, Severity, Validate as _, Work};

use super::{
    error::ExperimentError,
    lower::absolute,
    plugin::Plugin,
    record::{ExperimentRecord, RECORD_FORMAT, file_error},
};
use crate::{adapters, environment, error::RunError};

/// The record of `experiment`, which has no id yet.
pub(super) fn prepare(
    mut experiment: schemas::Experiment,
    executor: Executor,
    working_directory: PathBuf,
    plugins: &[Arc<dyn Plugin>],
) -> Result<ExperimentRecord, RunError> {
    for plugin in plugins {
        for (name, task) in &mut experiment.tasks {
            plugin.before_launch(name, task)?;
        }
    }
    let problems = adapters::problems_of_tasks(&experiment)
        .into_iter()
        .chain(executor.problems("executor"));
    let errors: Vec<_> = problems.filter(|problem| problem.severity == Severity::Error).collect();
    if !errors.is_empty() {
        return Err(RunError::Invalid(errors));
    }
    let mut scripts = BTreeMap::new();
    for task in experiment.tasks.values() {
        if let Work::Script(Script { path: Some(path), .. }) = &task.task
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
    let read = File::open(path).and_then(|file| file.take(SCRIPT_LIMIT + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > SCRIPT_LIMIT => Err(refused("is longer than 1 MiB").into()),
        Ok(_) => String::from_utf8(bytes).map_err(|_| refused("is not UTF-8").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(refused("is not there").into()),
        Err(error) => Err(file_error("read", path)(error)),
    }
}

/// Hashes of the annotations that the fine-tunes of `record` read. They may be large, so that a dry run asks for none.
pub(super) fn data_hashes(record: &ExperimentRecord) -> BTreeMap<PathBuf, Option<String>> {
    let mut hashes = BTreeMap::new();
    for task in record.experiment.tasks.values() {
        if let Work::Finetune(run) = &task.task
            && let Data::Preloaded(data) = &run.finetune.data
        {
            for path in data.paths.iter().chain(&data.val_paths) {
                let path = absolute(&record.working_directory, path);
                hashes.entry(path).or_insert_with_key(|path| hash(path));
            }
        }
    }
    hashes
}

/// BLAKE3 of a file; `None` where it cannot be read.
pub(super) fn hash(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}
