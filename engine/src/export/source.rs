//! The model to export, opened: a checkpoint with its base, or a Hugging Face folder.

use super::equal_extents::EqualExtents;
use super::merged_weight::merge;
use super::run_of_folder::run_of_folder;
use super::trained::{Trained, WHOLE};
use crate::checkpoint::{Base, CheckpointFolder, Extent, ModelCache, OfModel, OpenBase, PeftFolder, TrainedTensors, Values};
use crate::error::{EngineError, Result};
use neva_layout::{Adapters, Families, LinearAdapter, ModelTable, ParamSpec, Part, lora_adapters};
use neva_schemas::{Finetune, Peft, Problem};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tch::Tensor;

/// A model to export.
#[derive(Debug)]
pub(super) struct Source {
    /// Folder of the checkpoint or of the model.
    pub(super) path: PathBuf,
    /// The checkpoint, if it is one.
    pub(super) checkpoint: Option<CheckpointFolder>,
    /// Its run; the defaults for a folder without one.
    pub(super) finetune: Finetune,
    /// Source of the parameters that the checkpoint does not hold.
    pub(super) base: Base,
    /// Table of the model.
    pub(super) table: ModelTable,
    /// Parameters of the model, without adapters.
    pub(super) rows: Vec<ParamSpec>,
    /// Adapters of the run.
    pub(super) adapters: Adapters,
    /// Tensors that were compared while they were written.
    pub(super) equal: EqualExtents,
    trained: Trained,
    opened: OpenBase,
}

impl Source {
    /// Opens a checkpoint, or the newest one in a run's folder, or a Hugging Face folder. `given` are folders of base weights
    /// that were moved.
    ///
    /// # Errors
    /// A file is missing, damaged or does not fit, or the base weights are not there.
    pub(super) fn open(path: &Path, given: &[PathBuf], families: &Families, cache: &ModelCache) -> Result<Self> {
        let source = Self::unverified(path, given, families, cache)?;
        source.verify()?;
        Ok(source)
    }

    /// Returns the folders that are read.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path.as_path()).chain(self.base.folders())
    }

    /// Compares the files of the checkpoint with their checksums.
    ///
    /// # Errors
    /// A file is damaged.
    pub(super) fn verify(&self) -> Result<()> {
        self.checkpoint.as_ref().map_or(Ok(()), CheckpointFolder::verify)
    }

    /// As [`Self::open`], but [`Self::verify`] is left to the caller.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn unverified(path: &Path, given: &[PathBuf], families: &Families, cache: &ModelCache) -> Result<Self> {
        if !CheckpointFolder::is_checkpoint(path) && path.join("config.json").is_file() {
            if let Some(given) = given.first() {
                let message = format!("{} holds a whole model, which has no base", path.display());
                let help = format!("leave out --base {}", given.display());
                return Err(EngineError::Run(vec![Problem::error("--base", message).help(help)]));
            }
            return Self::of_folder(path, families, cache);
        }
        let checkpoint = CheckpointFolder::find(path)?;
        let base = Base::of_checkpoint(&checkpoint, given, cache)?;
        // Damage is the reason of other errors.
        let files = checkpoint.clone();
        let finetune = checkpoint.run.finetune.clone();
        let opened = Self::new(checkpoint.path.clone(), Some(checkpoint), None, finetune, base, families, cache);
        opened.map_err(|error| files.verify().err().unwrap_or(error))
    }

    /// Opens a Hugging Face folder.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn of_folder(path: &Path, families: &Families, cache: &ModelCache) -> Result<Self> {
        let finetune = run_of_folder(path, families)?;
        let base = Base::HuggingFace(path.to_owned());
        Self::new(path.to_owned(), None, None, finetune, base, families, cache)
    }

    /// Opens the base of this model alone.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn base(&self, families: &Families, cache: &ModelCache) -> Result<Self> {
        let finetune = Finetune {
            peft: None,
            ..self.finetune.clone()
        };
        let path = self.base.folder().unwrap_or(&self.path).to_owned();
        Self::new(path, None, None, finetune, self.base.clone(), families, cache)
    }

    /// Opens this whole model with the adapter of a folder of PEFT.
    ///
    /// # Errors
    /// The adapter does not fit the model.
    pub(super) fn with_peft(&self, folder: &PeftFolder, families: &Families, cache: &ModelCache) -> Result<Self> {
        let finetune = Finetune {
            peft: Some(folder.settings(&self.table)?),
            ..self.finetune.clone()
        };
        let base = match &self.checkpoint {
            Some(checkpoint) => Base::Checkpoint(checkpoint.path.clone()),
            None => self.base.clone(),
        };
        Self::new(folder.path.clone(), None, Some(folder), finetune, base, families, cache)
    }

    fn new(
        path: PathBuf,
        checkpoint: Option<CheckpointFolder>,
        peft: Option<&PeftFolder>,
        finetune: Finetune,
        base: Base,
        families: &Families,
        cache: &ModelCache,
    ) -> Result<Self> {
        let table = families.resolve(&finetune.model, "finetune.model");
        let table = table.map_err(|problem| EngineError::Run(vec![problem]))?;
        let rows = table.parameters(finetune.trainer.strategy.vision_placement);
        let adapters = match finetune.peft.as_ref().map(Peft::lora) {
            Some(lora) if checkpoint.as_ref().is_none_or(|checkpoint| !checkpoint.state.whole) => {
                lora_adapters(&rows, lora, "finetune.peft").map_err(EngineError::Run)?
            }
            _ => Adapters::default(),
        };
        let specs: Vec<_> = rows.iter().chain(&adapters.parameters).cloned().collect();
        let trained = match (&checkpoint, peft) {
            (Some(checkpoint), _) => Trained::Checkpoint(TrainedTensors::open(checkpoint, &finetune, &specs)?),
            (None, Some(folder)) => {
                let values = folder.read(&table, &specs, &|_| true, &finetune, WHOLE)?;
                let names = values.keys().cloned().collect();
                Trained::Peft {
                    values: Mutex::new(values),
                    names,
                }
            }
            (None, None) => Trained::Nothing,
        };
        let rest: Vec<_> = rows.iter().filter(|spec| !trained.holds(spec)).cloned().collect();
        let model = OfModel {
            table: &table,
            specs: &rows,
            finetune: &finetune,
            cache,
        };
        let opened = match rest.is_empty() {
            // Its folder need not be there.
            true => OpenBase::Seed(finetune.trainer.seed),
            false => OpenBase::open(&base, &rest, model)?,
        };
        Ok(Self {
            path,
            checkpoint,
            base,
            table,
            adapters,
            equal: EqualExtents::default(),
            trained,
            opened,
            rows,
            finetune,
        })
    }

    /// Returns the names of the tensors that the run trained.
    pub(super) fn trained(&self) -> BTreeSet<&str> {
        self.trained.names()
    }

    /// Returns whether the run trained a parameter itself.
    pub(super) fn trains(&self, spec: &ParamSpec) -> bool {
        self.trained.holds(spec)
    }

    /// Returns whether the run changed a parameter: trained it itself, or an adapter of it.
    pub(super) fn changes(&self, spec: &ParamSpec) -> bool {
        self.trains(spec) || self.adapter(spec).is_some()
    }

    /// Returns the adapter of the linear whose weight is `spec`.
    pub(super) fn adapter(&self, spec: &ParamSpec) -> Option<&LinearAdapter> {
        self.adapters.linears.get(&spec.lora.as_ref()?.linear)
    }

    /// Returns the names of the tensors that [`Self::merged`] reads for a weight.
    pub(super) fn parts(&self, spec: &ParamSpec) -> Vec<String> {
        let adapter = self.adapter(spec).into_iter();
        let adapter = adapter.flat_map(|adapter| [Some(&adapter.a), Some(&adapter.b), adapter.magnitude.as_ref()]);
        std::iter::once(&spec.name).chain(adapter.flatten()).cloned().collect()
    }

    /// Returns where a parameter lies that is exported as one file holds it: it has no adapter.
    pub(super) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        self.plain_extent(spec).filter(|_| self.adapter(spec).is_none())
    }

    /// Returns where a parameter lies without the run's adapters, if one file holds it as a whole.
    pub(super) fn plain_extent(&self, spec: &ParamSpec) -> Option<Extent> {
        match &self.trained {
            Trained::Checkpoint(tensors) if tensors.holds(spec) => tensors.extent(spec),
            Trained::Peft { names, .. } if names.contains(&spec.name) => None,
            _ => self.opened.extent(spec),
        }
    }

    /// Reads whole parameters and tensors of adapters, in the kinds of their files.
    ///
    /// # Errors
    /// A file cannot be read, or holds NaN or infinite values.
    pub(super) fn read(&self, wanted: &[ParamSpec]) -> Result<Values> {
        let (own, rest): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(|spec| self.trained.holds(spec));
        if let Some(adapter) = rest.iter().find(|spec| spec.part == Part::Adapter) {
            return Err(EngineError::Bug(format!("the checkpoint holds no `{}`", adapter.name)));
        }
        let mut values = self.trained.read(&own)?;
        if !rest.is_empty() {
            values.append(&mut self.opened.read(&rest, WHOLE)?);
        }
        Ok(values)
    }

    /// Reads whole parameters without the run's adapters.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn plain<'a>(&self, wanted: impl Iterator<Item = &'a ParamSpec> + Clone) -> Result<Vec<Tensor>> {
        let values = self.read(&wanted.clone().cloned().collect::<Vec<_>>())?;
        wanted.map(|spec| merge(&values, &spec.name, None)).collect()
    }

    /// Reads whole parameters with the run's adapters merged, which are computed in fp32 and so rounded once.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn merged<'a>(&self, wanted: impl Iterator<Item = &'a ParamSpec> + Clone) -> Result<Vec<Tensor>> {
        let names: BTreeSet<_> = wanted.clone().flat_map(|spec| self.parts(spec)).collect();
        let adapters = self.adapters.parameters.iter().filter(|spec| names.contains(&spec.name));
        let specs: Vec<_> = wanted.clone().cloned().chain(adapters.cloned()).collect();
        let values = self.read(&specs)?;
        wanted.map(|spec| merge(&values, &spec.name, self.adapter(spec))).collect()
    }
}
