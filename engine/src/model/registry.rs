//! The model families that a rank program can compute, by name.

use super::multimodal::{Images, Multimodal};
use super::parts::{Decoder, ModelChunk, Projector, VisionEncoder};
use super::{clip, decoder, intern_vit, projector, siglip};
use crate::error::{EngineError, Result};
use crate::nn::Build;
use neva_layout::ChunkSpec;
use neva_layout::families::{DecoderFamily, Families, ModelTable, PROJECTOR, VISION, VisionFamily};
use neva_schemas::{Model, TextConfig, TextModelType, VisionTower};

/// Builds a decoder, or a chunk of one, from the parameters below its prefix.
pub type BuildDecoder = fn(&TextConfig, &ChunkSpec, &Build<'_>) -> Result<Box<dyn Decoder>>;
/// Builds a vision tower from the parameters below its prefix.
pub type BuildVision = fn(&VisionTower, &Build<'_>) -> Result<Box<dyn VisionEncoder>>;
/// Builds a projector from the parameters below its prefix.
type BuildProjector = fn(&neva_schemas::Projector, &Build<'_>) -> Result<Box<dyn Projector>>;

/// The model families of a rank program: their tables and constructors.
#[derive(Debug, Clone)]
pub struct Models {
    families: Families,
    decoders: Vec<(&'static str, BuildDecoder)>,
    vision: Vec<(&'static str, BuildVision)>,
    projectors: Vec<(&'static str, BuildProjector)>,
}

impl Default for Models {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Models {
    /// Returns the families of `neva-rank`.
    pub fn builtin() -> Self {
        Self {
            families: Families::builtin(),
            decoders: TextModelType::BUILTIN
                .iter()
                .map(|family| (family.name(), decoder::build as BuildDecoder))
                .collect(),
            vision: vec![
                ("clip_vision_model", clip::build as BuildVision),
                ("siglip_vision_model", siglip::build),
                ("internvl_vision", intern_vit::build),
            ],
            projectors: vec![("mlp", projector::mlp as BuildProjector), ("internvl", projector::pixel_shuffle)],
        }
    }

    /// Adds a family of decoders.
    #[must_use]
    pub fn decoder(mut self, name: &'static str, family: &'static dyn DecoderFamily, build: BuildDecoder) -> Self {
        self.families = self.families.decoder(name, family);
        self.decoders.push((name, build));
        self
    }

    /// Adds a family of vision towers.
    #[must_use]
    pub fn vision(mut self, name: &'static str, family: &'static dyn VisionFamily, build: BuildVision) -> Self {
        self.families = self.families.vision(name, family);
        self.vision.push((name, build));
        self
    }

    /// Returns the tables of the families.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// Resolves a recipe's model to its parts and their families.
    ///
    /// # Errors
    /// A family is unknown.
    pub fn resolve(&self, model: &Model) -> Result<ModelTable> {
        let resolved = self.families.resolve(model, "finetune.model");
        resolved.map_err(|problem| EngineError::Run(vec![problem]))
    }

    /// Builds a chunk of a model; the first one has the vision tower and the projector.
    ///
    /// # Errors
    /// The model has no decoder, or a parameter is missing.
    pub fn build(&self, table: &ModelTable, chunk: &ChunkSpec, build: &Build<'_>) -> Result<Box<dyn ModelChunk>> {
        let description = &table.description;
        let Some(decoder) = &description.decoder else {
            return Err(EngineError::Bug("a model without a decoder has no loss to train on".into()));
        };
        let images = match (&description.vision, &description.projector) {
            (Some(vision), Some(projector)) if chunk.first => {
                let whole = build.whole_sequences();
                Some(Images {
                    vision: find(&self.vision, vision.config.model_type.name())?(vision, &whole.at(VISION))?,
                    projector: find(&self.projectors, projector.kind.family())?(projector, &whole.at(PROJECTOR))?,
                    partition: build.images(),
                })
            }
            _ => None,
        };
        let make = find(&self.decoders, decoder.config.family().name())?;
        Ok(Box::new(Multimodal {
            images,
            decoder: make(&decoder.config, chunk, &build.at(table.decoder_names().body))?,
            region: build.region(),
        }))
    }
}

fn find<T: Copy>(known: &[(&'static str, T)], name: &str) -> Result<T> {
    let found = known.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, build)| *build)
        .ok_or_else(|| EngineError::Bug(format!("nothing computes the model family `{name}`")))
}
