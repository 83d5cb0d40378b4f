//! Opens the data of a run as its ranks do, for `neva-run data`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use neva_data::{ModelFolders, PreloadedTools, Probe};
use neva_layout::ModelCache;
use neva_schemas::{Data, NevaPreloadedDataModule, Problem, Run};

use super::{Artifacts, data::vision_folder, weights};
use crate::{
    environment,
    error::RunError,
    home,
    hub::Notice,
    pretrained,
    resolve::{Resolved, check},
};

const DATA: &str = "finetune.data";
const TOKENIZER: &str = "finetune.data.tokenizer";

/// Data of a run, as far as this program can read it.
pub(crate) enum RunData {
    /// Data files with their tokenizer and image processor.
    Files(Arc<Probe>),
    /// Mock data, which has no files.
    Mock,
}

/// Opens the data of a run. Downloads tokenizer and image processor if an address of the hub names them.
///
/// # Errors
/// The run's tokenizer or image processor is missing or does not fit its model, or only its rank program knows the data.
pub(crate) fn open_data(resolved: &Resolved, notice: Notice<'_>) -> Result<RunData, RunError> {
    let run = home::with_home(&resolved.run)?;
    let cache = ModelCache::locate(environment::variable);
    match cache.with_paths(&run.finetune.data) {
        Data::Mock(_) => Ok(RunData::Mock),
        Data::Energon(_) | Data::Custom(_) => {
            let message = "only the rank program of this run can read data of a custom type: `neva-run data` reads \
                           `vlm.NevaPreloadedDataModule` and `EnergonMultiModalDataModule`";
            check(&resolved.tree, vec![Problem::error(DATA, message)])?;
            Err(RunError::Argument(message.to_owned()))
        }
        Data::Preloaded(data) => {
            pretrained::fetch_tools(&run, &BTreeMap::new(), notice)?;
            match open(&run, &data, &cache) {
                Ok(probe) => Ok(RunData::Files(Arc::new(probe))),
                Err(problems) => {
                    let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    check(&resolved.tree, problems)?;
                    Err(RunError::Argument(text))
                }
            }
        }
    }
}

fn open(run: &Run, data: &NevaPreloadedDataModule, cache: &ModelCache) -> Result<Probe, Vec<Problem>> {
    let model = run.finetune.model.description();
    let own = OwnFolders::find(run, data.tokenizer.is_some(), cache)?;
    let tools = PreloadedTools::open(data, &model, own.folders())?;
    Ok(Probe::new(data, &model, tools))
}

/// Folders that have the tokenizer and the image processor of a run's model.
pub(super) struct OwnFolders {
    base: Option<PathBuf>,
    vision: Option<PathBuf>,
}

impl OwnFolders {
    /// Finds the folders of a run, whose recipe may name the tokenizer.
    ///
    /// # Errors
    /// The tokenizer is that of a model that only the ranks find.
    pub(super) fn find(run: &Run, names_tokenizer: bool, cache: &ModelCache) -> Result<Self, Vec<Problem>> {
        let finetune = &run.finetune;
        let mut problems = Vec::new();
        let base = match weights::problems(finetune, cache, &mut problems) {
            Artifacts::Folder(folder) => Some(folder),
            Artifacts::None => None,
            Artifacts::Unknown if names_tokenizer => None,
            Artifacts::Unknown => {
                // The problem of the model's folder, if there is one, is the reason.
                problems.retain(|problem| problem.path.starts_with("finetune.resume"));
                if problems.is_empty() {
                    let message = "the tokenizer is that of the base model, which only the ranks find";
                    let help = format!("name it with `--set {TOKENIZER}=FOLDER`");
                    problems.push(Problem::error(TOKENIZER, message).help(help));
                }
                return Err(problems);
            }
        };
        let vision = vision_folder(finetune, cache);
        Ok(Self { base, vision })
    }

    /// Returns the folders for the tools of the data.
    pub(super) fn folders(&self) -> ModelFolders<'_> {
        ModelFolders {
            tokenizer: self.base.as_deref(),
            image_processor: self.vision.as_deref().or(self.base.as_deref()),
            record_cache: None,
        }
    }
}
