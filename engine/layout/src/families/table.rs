//! A model with its families: parameters, and names in Hugging Face's files.

use super::family::{DecoderFamily, DecoderNames, ProjectorFamily, VisionFamily};
use super::language::{self, DECODER_ALONE};
use super::llava::{self, DECODER, PROJECTOR, Place, VISION};
use super::registry::Families;
use crate::parameter::ParamSpec;
use neva_schemas::{Model, ModelDescription, Problem, VisionPlacement};
use serde_json::Value;

/// A model's parts with their families.
#[derive(Debug, Clone)]
pub struct ModelTable {
    /// The model of a recipe.
    model: Model,
    /// The parts of the model.
    pub description: ModelDescription,
    vision: Option<&'static dyn VisionFamily>,
    projector: Option<&'static dyn ProjectorFamily>,
    decoder: Option<&'static dyn DecoderFamily>,
    families: Families,
}

impl Families {
    /// Resolves a recipe's model to its parts and their families. `path` is the path of the model for messages.
    ///
    /// # Errors
    /// A family is unknown.
    pub fn resolve(&self, model: &Model, path: &str) -> Result<ModelTable, Problem> {
        let description = model.description();
        let decoder = description.decoder.as_ref().map(|decoder| {
            let name = decoder.config.family().name();
            find(&self.decoders, name, &format!("{path}.{}.model_type", decoder.section))
        });
        let vision = description.vision.as_ref().map(|tower| {
            let name = tower.config.model_type.name();
            find(&self.vision, name, &format!("{path}.vision_config.model_type"))
        });
        let projector = description
            .projector
            .as_ref()
            .map(|projector| find(&self.projectors, projector.kind.family(), path));
        Ok(ModelTable {
            model: model.clone(),
            decoder: decoder.transpose()?,
            vision: vision.transpose()?,
            projector: projector.transpose()?,
            families: self.clone(),
            description,
        })
    }
}

/// Finds the family of a name.
fn find<T: Copy>(known: &[(&'static str, T)], name: &str, path: &str) -> Result<T, Problem> {
    let found = known.iter().find(|(known, _)| *known == name).map(|(_, family)| *family);
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Problem::error(path, format!("this program has no model family `{name}`")).help(format!("it has {}", names.join(", ")))
    })
}

impl ModelTable {
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn vision_family(&self) -> Option<&'static dyn VisionFamily> {
        self.vision
    }

    pub(super) fn decoder_family(&self) -> Option<&'static dyn DecoderFamily> {
        self.decoder
    }

    /// Returns the parameter names of the decoder: those of a language model alone if the model has no other part.
    pub fn decoder_names(&self) -> DecoderNames<'static> {
        if self.vision.is_some() { DECODER } else { DECODER_ALONE }
    }

    /// Returns the families that the model was resolved with.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// Returns every parameter, in the order in which they are created and saved. Only the cuts depend on `placement`.
    pub fn parameters(&self, placement: VisionPlacement) -> Vec<ParamSpec> {
        let mut rows = Vec::new();
        if let (Some(family), Some(tower)) = (self.vision, &self.description.vision) {
            rows.extend(family.parameters(tower, VISION, placement));
        }
        if let (Some(family), Some(projector)) = (self.projector, &self.description.projector) {
            rows.extend(family.parameters(projector, PROJECTOR, placement));
        }
        if let (Some(family), Some(decoder)) = (self.decoder, &self.description.decoder) {
            rows.extend(family.parameters(&decoder.config, self.decoder_names()));
        }
        rows
    }

    /// Returns the full name of the weight that computes logits from hidden states; `None` without a decoder.
    pub fn head_weight(&self) -> Option<String> {
        let decoder = self.description.decoder.as_ref()?;
        Some(self.decoder?.head_weight(&decoder.config, self.decoder_names()))
    }

    /// Returns the canonical name of a tensor in a Hugging Face file; `None` if it is not part of the model.
    pub fn canonical_name(&self, name: &str) -> Option<String> {
        if self.vision.is_none() {
            return language::canonical_name(name);
        }
        Some(match Place::of(name)? {
            Place::Vision(rest) => format!("{VISION}.{}", self.vision?.canonical_name(rest)),
            Place::Projector(rest) => {
                self.projector?;
                format!("{PROJECTOR}.{rest}")
            }
            Place::Decoder(rest) => {
                self.decoder?;
                format!("{}.{rest}", DECODER.body)
            }
            Place::Head(name) => {
                self.decoder?;
                name.to_owned()
            }
        })
    }

    /// Returns the name in the files of Hugging Face's hub for a canonical name.
    pub fn hub_name(&self, canonical: &str) -> String {
        if self.vision.is_none() {
            return canonical.to_owned();
        }
        llava::hub_name(canonical, |rest| {
            self.vision.map_or_else(|| rest.to_owned(), |family| family.hub_name(rest))
        })
    }

    /// Returns whether a tensor of this name in a file is redundant: buffers, and the head of a tied embedding.
    pub fn is_derived(&self, name: &str) -> bool {
        self.vision
            .zip(self.description.vision.as_ref())
            .is_some_and(|(family, tower)| family.is_derived(name, &tower.config))
            || self.decoder.is_some_and(|family| family.is_derived(name))
    }

    /// Returns whether the tensor of this canonical name is a copy of the embedding that is also the head.
    pub fn is_tied_head(&self, canonical: &str) -> bool {
        let tied = self
            .description
            .decoder
            .as_ref()
            .is_some_and(|decoder| decoder.config.tie_word_embeddings);
        tied && canonical == format!("{}.weight", self.decoder_names().head)
    }

    /// Writes the model's `config.json`.
    pub fn write_config(&self) -> Value {
        let decoder = self.decoder.zip(self.description.decoder.as_ref());
        let decoder = decoder
            .map(|(family, decoder)| family.write_config(&decoder.config))
            .unwrap_or_default();
        let Some(model) = self.model.as_llava() else { return decoder };
        let vision = self.vision.map(|family| family.write_config(&model.vision_config));
        llava::write_config(model, decoder, vision.unwrap_or_default())
    }
}
