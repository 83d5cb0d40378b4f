//! Exports of checkpoints.

use super::no_cache;
use neva_engine::export::{ExportFormat, ExportRequest, Exported, export};
use neva_engine::model::Models;
use std::path::Path;

/// Exports a checkpoint in the format of transformers.
pub(crate) fn export_hf(checkpoint: &Path, out: &Path, models: &Models) -> neva_engine::Result<Exported> {
    let request = ExportRequest {
        out: Some(out.to_owned()),
        ..ExportRequest::new(checkpoint, ExportFormat::Hf)
    };
    export(&request, models, &no_cache())
}
