//! A checkpoint of this program with the whole model, from which a run starts.

use super::companion_files::collect;
use super::source::Source;
use super::tensors::{self, Named, Origin};
use super::whole::check_complete;
use super::{ExportRequest, Written};
use crate::checkpoint::{ModelCache, RunProgress, seal_whole};
use crate::error::Result;
use neva_schemas::{AutoResume, Finetune, Run};
use std::path::Path;

/// Writes the model, adapters merged, in the data types of its files: nothing is rounded unless the request names a data type.
pub(super) fn write(source: &Source, request: &ExportRequest, cache: &ModelCache, folder: &Path) -> Result<Written> {
    check_complete(source, source.rows.iter().flat_map(|spec| source.parts(spec)))?;
    collect(source, cache, folder)?;
    let named: Vec<Named> = source.rows.iter().map(|spec| (spec.clone(), spec.name.clone())).collect();
    let kind = request.dtype.map(tensors::kind);
    let origin = Origin {
        read: &|group| source.merged(group.iter().map(|(spec, _)| spec)),
        locate: &|spec| source.extent(spec),
        equal: &source.equal,
    };
    let unsynced = tensors::write(folder, "model", u64::MAX, &named, kind, &origin)?;
    let progress = source.checkpoint.as_ref().map(|checkpoint| &checkpoint.state.progress);
    let progress = progress.map_or_else(RunProgress::default, |progress| RunProgress {
        steps_done: progress.steps_done,
        total_steps: progress.total_steps,
        consumed_samples: progress.consumed_samples,
        metrics: progress.metrics.clone(),
        ..RunProgress::default()
    });
    let run = match &source.checkpoint {
        Some(checkpoint) => checkpoint.run.clone(),
        None => Run::from_finetune(source.finetune.clone()),
    };
    let run = Run {
        finetune: without_sources(run.finetune),
        peft_scheme: neva_schemas::PeftScheme::None,
        ..run
    };
    seal_whole(folder, &run, &progress)?;
    Ok(Written {
        model: Some(""),
        unsynced: vec![unsynced],
        ..Written::default()
    })
}

/// Returns a run that needs no other weights: the checkpoint holds all of them.
fn without_sources(mut finetune: Finetune) -> Finetune {
    finetune.peft = None;
    finetune.resume = AutoResume::default();
    finetune.model.clear_pretrained();
    finetune
}
