//! Export of checkpoints of any layout, to every format.

mod adapters;
mod check;
mod companions;
mod families;
mod faults;
mod formats;
mod moved_base;
mod whole;

use crate::setting::{no_cache, run_on};
use neva_engine::Result;
use neva_engine::checkpoint::{CheckpointFolder, TensorFile};
use neva_engine::export::{ExportFormat, ExportRequest, Exported, export};
use neva_engine::model::Models;
use neva_engine::trainer::Registry;
use neva_schemas::{Finetune, ParallelSizes};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Returns a checkpoint after two steps.
pub(super) fn trained(folder: &Path, finetune: &Finetune, sizes: ParallelSizes) -> CheckpointFolder {
    trained_for(2, folder, finetune, sizes)
}

/// Returns a checkpoint after some steps.
pub(super) fn trained_for(steps: u64, folder: &Path, finetune: &Finetune, sizes: ParallelSizes) -> CheckpointFolder {
    let mut finetune = finetune.clone();
    finetune.trainer.max_steps = Some(steps);
    let reports = run_on(&finetune, &folder.join("run"), sizes, &Registry::builtin());
    let report = reports.into_iter().next().unwrap().unwrap();
    CheckpointFolder::open(&report.checkpoint.unwrap()).unwrap()
}

/// Exports with a changed request.
pub(super) fn exported(source: &Path, out: &Path, format: ExportFormat, change: impl FnOnce(&mut ExportRequest)) -> Result<Exported> {
    let mut request = ExportRequest {
        out: Some(out.to_owned()),
        ..ExportRequest::new(source, format)
    };
    change(&mut request);
    export(&request, &Models::builtin(), &no_cache())
}

/// Returns the folder of a model that transformers wrote.
pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf").join(name)
}

/// Returns the tensors of the safetensors files of a folder.
pub(super) fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    let mut found = BTreeMap::new();
    for name in crate::setting::names(folder)
        .iter()
        .filter(|name| name.ends_with(".safetensors") && *name != "golden.safetensors")
    {
        let file = TensorFile::open(&folder.join(name)).unwrap();
        for name in file.tensors().into_keys() {
            let tensor = file.read(&name, None).unwrap();
            assert!(found.insert(name, tensor).is_none());
        }
    }
    found
}

/// Asserts that `got` is `expected`, except for fields that it has besides.
#[track_caller]
pub(super) fn assert_extends(got: &Value, expected: &Value) {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            for (name, expected) in expected {
                assert_extends(got.get(name).unwrap_or(&Value::Null), expected);
            }
        }
        _ => assert_eq!(got, expected),
    }
}

/// Returns the content of a JSON file of a folder.
pub(super) fn json_of(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}
