//! Opens the samples of a run as its ranks do.

use std::{collections::BTreeMap, sync::Arc};

use neva_data::{Dataset, EnergonData, EnergonDataset, PreloadedData, PreloadedTools, RecordFile};
use neva_layout::ModelCache;
use neva_schemas::{Data, EnergonMultiModalDataModule, Problem, TaskEncoder};

use super::probe::OwnFolders;
use crate::{
    environment,
    error::RunError,
    home,
    hub::Notice,
    pretrained,
    resolve::{Resolved, check},
};

/// Samples of a run.
pub(crate) struct RunSamples {
    /// Training samples.
    pub(crate) train: Arc<dyn Dataset>,
    /// Number of positions of an image.
    pub(crate) image_positions: usize,
}

/// Opens the samples of a run. Downloads tokenizer and image processor if an address of the hub names them.
///
/// # Errors
/// The run's files are missing or do not fit its model, or only its rank program knows the data.
pub(crate) fn open_samples(resolved: &Resolved, notice: Notice<'_>) -> Result<RunSamples, RunError> {
    let run = home::with_home(&resolved.run)?;
    let cache = ModelCache::locate(environment::variable);
    let model = run.finetune.model.description();
    let data = cache.with_paths(&run.finetune.data);
    let names_tokenizer = match &data {
        Data::Preloaded(data) => data.tokenizer.is_some(),
        Data::Energon(data) => data.tokenizer.is_some(),
        Data::Mock(_) | Data::Custom(_) => {
            let message = "these samples have no files that `neva-run data` could read: it reads vlm.NevaPreloadedDataModule and \
                           EnergonMultiModalDataModule";
            return Err(RunError::Argument(message.to_owned()));
        }
    };
    pretrained::fetch_tools(&run, &BTreeMap::new(), notice)?;
    let own = located(resolved, OwnFolders::find(&run, names_tokenizer, &cache))?;
    let image_positions = model.image_seq_length();
    let train = match &data {
        Data::Energon(data) => {
            refuse_custom_encoder(data)?;
            let tools = located(resolved, EnergonData::tools(data, &model, own.folders()))?;
            EnergonData::open(data, &model, &tools)?.train
        }
        Data::Preloaded(data) => {
            let tools = located(resolved, PreloadedTools::open(data, &model, own.folders()))?;
            let indices = RecordFile::cache_folder(environment::variable);
            PreloadedData::open(data, &model, &tools, indices.as_deref())?.train
        }
        Data::Mock(_) | Data::Custom(_) => return Err(RunError::Argument("the data has no files".to_owned())),
    };
    Ok(RunSamples { train, image_positions })
}

/// Splits of an Energon dataset, as they are: without a skip list and without replacements for broken samples.
pub(crate) struct Splits {
    /// Name and samples of each split that has any.
    pub(crate) splits: Vec<(&'static str, Arc<EnergonDataset>)>,
    /// Tokenizer, template and image processor.
    pub(crate) tools: PreloadedTools,
    /// Number of positions of an image.
    pub(crate) image_positions: usize,
}

/// Opens the splits of the Energon dataset of a run. Downloads its tools as [`open_samples`] does.
///
/// # Errors
/// As [`open_samples`].
pub(crate) fn open_splits(resolved: &Resolved, data: &EnergonMultiModalDataModule, notice: Notice<'_>) -> Result<Splits, RunError> {
    let run = home::with_home(&resolved.run)?;
    let cache = ModelCache::locate(environment::variable);
    let model = run.finetune.model.description();
    pretrained::fetch_tools(&run, &BTreeMap::new(), notice)?;
    let own = located(resolved, OwnFolders::find(&run, data.tokenizer.is_some(), &cache))?;
    let data = match cache.with_paths(&run.finetune.data) {
        Data::Energon(data) => data,
        _ => data.clone(),
    };
    let tools = located(resolved, EnergonData::tools(&data, &model, own.folders()))?;
    refuse_custom_encoder(&data)?;
    let mut splits = Vec::new();
    for name in ["train", "val"] {
        let dataset = EnergonData::split(&data, &model, &tools, name)?;
        if !dataset.is_empty() {
            splits.push((name, Arc::new(dataset)));
        }
    }
    Ok(Splits {
        splits,
        tools,
        image_positions: model.image_seq_length(),
    })
}

/// Refuses samples that only the rank program can encode.
fn refuse_custom_encoder(data: &EnergonMultiModalDataModule) -> Result<(), RunError> {
    match &data.task_encoder {
        Some(TaskEncoder::Custom(custom)) => Err(RunError::Argument(format!(
            "only the rank program of this run has the task encoder {}: `neva-run data` reads samples of MultiModalTaskEncoder",
            custom.target()
        ))),
        _ => Ok(()),
    }
}

/// Reports problems at the places where their settings are written.
fn located<T>(resolved: &Resolved, found: Result<T, Vec<Problem>>) -> Result<T, RunError> {
    found.or_else(|problems| {
        let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        check(&resolved.tree, problems)?;
        Err(RunError::Argument(text))
    })
}
