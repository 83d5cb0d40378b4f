//! Finds the base weights of a checkpoint, also after they were moved: by the hash that the checkpoint stores.

use super::base::{Base, PartBases};
use super::folder::CheckpointFolder;
use super::state::BaseReference;
use crate::error::{EngineError, Result};
use neva_layout::ModelCache;
use neva_schemas::Problem;
use std::path::PathBuf;

/// The option that names moved base weights.
const OPTION: &str = "--base";

impl Base {
    /// Returns the base weights of `checkpoint`. `given` are folders of those that are no longer where the run found them:
    /// of the base, of single parts, or of the base of a checkpoint that is the base. All are compared with the stored hash.
    ///
    /// # Errors
    /// The weights are not there, or are others.
    pub fn of_checkpoint(checkpoint: &CheckpointFolder, given: &[PathBuf], cache: &ModelCache) -> Result<Self> {
        let folders = given.iter().map(|path| Given::open(path, cache)).collect::<Result<Vec<_>>>()?;
        let search = Search {
            checkpoint,
            given: &folders,
            cache,
        };
        if given.is_empty()
            && let Ok(base) = Self::of(&checkpoint.run.finetune, cache)
        {
            let reference = base.reference()?;
            return match reference.same_weights(&checkpoint.state.base) {
                true => search.with_own_base(base),
                false => Err(search.mismatch(&reference)),
            };
        }
        let base = search.find(&checkpoint.state.base)?;
        let unused = folders.iter().find(|given| !base.uses(&given.base));
        match unused {
            Some(given) => Err(search.mismatch(&given.reference)),
            None => Ok(base),
        }
    }

    /// Returns whether this base reads `other`.
    fn uses(&self, other: &Self) -> bool {
        let folder = |base: &Self| base.folder().map(std::path::Path::to_owned);
        match self {
            Self::Parts(parts) => {
                let named = [&parts.language_model, &parts.vision_model, &parts.vision_projection];
                parts.rest.uses(other) || named.into_iter().flatten().any(|base| base.uses(other))
            }
            Self::Rebased { base, .. } => folder(self) == folder(other) || base.uses(other),
            Self::HuggingFace(_) | Self::Checkpoint(_) => folder(self) == folder(other),
            Self::Seed(_) => false,
        }
    }
}

/// Returns whether `reference`, or that of one of its parts, is `other`.
fn mentions(reference: &BaseReference, other: &BaseReference) -> bool {
    let BaseReference::Parts {
        language_model,
        vision_model,
        vision_projection,
        rest,
    } = reference
    else {
        return reference.same_weights(other);
    };
    let parts = [language_model, vision_model, vision_projection].into_iter().flatten();
    parts.chain([rest]).any(|part| mentions(part, other))
}

/// A folder that the user named.
struct Given {
    base: Base,
    reference: BaseReference,
}

impl Given {
    fn open(path: &std::path::Path, cache: &ModelCache) -> Result<Self> {
        let path = cache.path_of(&path.to_string_lossy());
        if !path.is_dir() {
            return Err(EngineError::Run(vec![
                Problem::error(OPTION, format!("{} is not a folder", path.display())).help("name the folder of the base weights"),
            ]));
        }
        let base = Base::folder_of_model(path);
        Ok(Self {
            reference: base.reference()?,
            base,
        })
    }
}

struct Search<'a> {
    checkpoint: &'a CheckpointFolder,
    given: &'a [Given],
    cache: &'a ModelCache,
}

impl Search<'_> {
    /// Returns the weights of `wanted`.
    fn find(&self, wanted: &BaseReference) -> Result<Base> {
        match wanted {
            BaseReference::Seed { seed } => Ok(Base::Seed(*seed)),
            BaseReference::Parts {
                language_model,
                vision_model,
                vision_projection,
                rest,
            } => {
                let part = |wanted: &Option<Box<BaseReference>>| wanted.as_ref().map(|wanted| self.find(wanted)).transpose();
                Ok(Base::Parts(Box::new(PartBases {
                    language_model: part(language_model)?,
                    vision_model: part(vision_model)?,
                    vision_projection: part(vision_projection)?,
                    rest: self.find(rest)?,
                })))
            }
            BaseReference::HuggingFace { path, .. } | BaseReference::Checkpoint { path, .. } => {
                if let Some(found) = self.given.iter().find(|given| given.reference.same_weights(wanted)) {
                    return self.with_own_base(found.base.clone());
                }
                if !path.is_dir() {
                    let other = self
                        .given
                        .iter()
                        .find(|given| !mentions(&self.checkpoint.state.base, &given.reference));
                    return Err(other.map_or_else(|| self.missing(wanted), |given| self.mismatch(&given.reference)));
                }
                let base = Base::folder_of_model(path.clone());
                let reference = base.reference()?;
                if !reference.same_weights(wanted) {
                    return Err(self.mismatch(&reference));
                }
                self.with_own_base(base)
            }
        }
    }

    /// Finds the base of a base that is a checkpoint.
    fn with_own_base(&self, base: Base) -> Result<Base> {
        let Base::Checkpoint(path) = base else { return Ok(base) };
        let checkpoint = CheckpointFolder::open(&path)?;
        let own = match self.given {
            [] => Base::of_checkpoint(&checkpoint, &[], self.cache)?,
            _ => self.find(&checkpoint.state.base)?,
        };
        Ok(match own {
            Base::Seed(_) => Base::Checkpoint(path),
            own => Base::Rebased {
                checkpoint: path,
                base: Box::new(own),
            },
        })
    }

    fn missing(&self, wanted: &BaseReference) -> EngineError {
        let message = format!("{} was trained on {wanted}, which is not there", self.checkpoint.path.display());
        EngineError::Run(vec![
            Problem::error(OPTION, message).help("if it was moved, name its folder: --base DIR"),
        ])
    }

    fn mismatch(&self, found: &BaseReference) -> EngineError {
        let (own, wanted) = (self.checkpoint.path.display(), &self.checkpoint.state.base);
        let message = format!("{own} was trained on {wanted}, these are {found}");
        EngineError::Run(vec![
            Problem::error(OPTION, message).help("name the folder of the weights that it was trained on: --base DIR"),
        ])
    }
}
