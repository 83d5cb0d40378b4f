//! The model in a Hugging Face folder: a whole model, a language model alone, or a vision encoder alone.

use super::config_reader::HfConfigError;
use super::llava::{COMPOSITES, LLAVA, is_composite};
use super::registry::Families;
use super::table::ModelTable;
use crate::parameter::{ParamSpec, Part};
use neva_schemas::VisionPlacement;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The model in a folder.
#[derive(Debug, Clone)]
pub struct FolderModel {
    /// The part of a multimodal model that the folder holds; `None` for a whole model.
    pub part: Option<Part>,
    /// `model_type` of its config.
    pub model_type: String,
    /// Id of the image token of a whole model.
    pub image_token: Option<i64>,
    /// The model with its sizes. The other parts of a vision encoder's model have defaults.
    pub table: ModelTable,
}

impl Families {
    /// Returns the model of a folder with this `config.json`.
    ///
    /// # Errors
    /// Everything in the file that this program does not implement; a `model_type` that these families do not have.
    pub fn folder_model(&self, config: &Value) -> Result<FolderModel, HfConfigError> {
        if !config.is_object() {
            return Err(HfConfigError::NotAnObject);
        }
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let vision = || self.vision.iter().find_map(|(_, family)| family.part_config(config));
        // The reader of whole models reports a config without a type, and one of LLaVA's own code.
        let is_whole = model_type.is_empty() || is_composite(config) || config.get("mm_projector_type").is_some();
        let (part, whole) = if is_whole {
            (None, config.clone())
        } else if self.decoder_of_type(&model_type).is_some() {
            (Some(Part::Language), config.clone())
        } else if let Some(own) = vision() {
            (Some(Part::Vision), json!({ "vision_config": own }))
        } else {
            let known: Vec<_> = self.model_types().collect();
            let problem = format!("`model_type` is {model_type:?}, known are {}", known.join(", "));
            return Err(HfConfigError::Unsupported(vec![problem]));
        };
        let model = self.read_config(&whole)?;
        let image_token = model.as_llava().filter(|_| part.is_none()).map(|model| model.image_token_index);
        let table = self.resolve(&model, "model");
        let table = table.map_err(|problem| HfConfigError::Unsupported(vec![problem.message]))?;
        // A whole model without a type is read as LLaVA's.
        let model_type = if model_type.is_empty() { LLAVA.to_owned() } else { model_type };
        Ok(FolderModel {
            part,
            model_type,
            image_token,
            table,
        })
    }

    /// Returns the valid values of `model_type`: of whole models, decoders and vision encoders.
    pub fn model_types(&self) -> impl Iterator<Item = &'static str> {
        let decoders = self.decoders.iter().map(|(_, family)| family.hugging_face_type());
        let vision = self.vision.iter().flat_map(|(_, family)| family.part_types().iter().copied());
        COMPOSITES.into_iter().chain(decoders).chain(vision)
    }
}

impl FolderModel {
    /// Returns the kind of the model, for people.
    pub fn kind(&self) -> &'static str {
        match self.part {
            None => "model",
            Some(Part::Language) => "language model",
            Some(Part::Vision) => "vision encoder",
            Some(Part::Projection) => "projector",
            Some(Part::Adapter) => "adapter",
        }
    }

    /// Returns whether the folder holds a language model.
    pub fn has_decoder(&self) -> bool {
        self.part.is_none_or(|part| part == Part::Language)
    }

    /// Returns every parameter that the folder must hold.
    pub fn parameters(&self) -> Vec<ParamSpec> {
        let mut rows = self.table.parameters(VisionPlacement::Duplicated);
        rows.retain(|row| self.part.is_none_or(|part| row.part == part));
        rows
    }

    /// Returns whether a tensor of the folder holds parameters, and not what is derived from them or belongs to no part.
    pub fn holds_parameters(&self, name: &str) -> bool {
        let is_fused = self.part.is_some_and(|part| !self.table.fused_part_names(part, name).is_empty());
        let canonical = self.canonical_name(name).filter(|_| !self.table.is_derived(name));
        is_fused || canonical.is_some_and(|canonical| !self.table.is_derived(&canonical))
    }

    /// Returns the name of a parameter in the table.
    fn canonical_name(&self, name: &str) -> Option<String> {
        match self.part {
            Some(Part::Vision) => self.table.canonical_part_name(Part::Vision, name),
            _ => self.table.canonical_name(name),
        }
    }

    /// Compares `tensors`, the names and shapes in the folder's files, with the table. Returns every missing, misshapen
    /// or duplicate tensor, and the names of tensors that are in no part of the model.
    pub fn check<'a>(&self, tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> (Vec<String>, Vec<String>) {
        let (mut problems, mut foreign) = (Vec::new(), Vec::new());
        let rows = self.parameters();
        let mut found = BTreeMap::new();
        for (name, shape) in tensors {
            // A folder may stack several parameters in one tensor.
            let fused = self.part.map_or_else(Vec::new, |part| self.table.fused_part_names(part, name));
            if !fused.is_empty() {
                let mut shape = shape.to_vec();
                if let Some(rows) = shape.first_mut() {
                    *rows /= fused.len();
                }
                found.extend(fused.into_iter().map(|canonical| (canonical, (name, shape.clone()))));
                continue;
            }
            match self.canonical_name(name) {
                _ if self.table.is_derived(name) => {}
                Some(canonical) if self.table.is_derived(&canonical) || self.table.is_tied_head(&canonical) => {}
                Some(canonical) => {
                    if found.insert(canonical.clone(), (name, shape.to_vec())).is_some() {
                        problems.push(format!("`{name}` is a second tensor for `{canonical}`"));
                    }
                }
                None if self.table.is_beside_part(name) => {}
                None => foreign.push(name.to_owned()),
            }
        }
        for row in &rows {
            match found.remove(&row.name) {
                None => problems.push(format!("`{}` {:?} is missing", row.name, row.shape)),
                Some((name, shape)) if shape != row.shape => {
                    problems.push(format!("`{name}` has shape {shape:?}, but its config says {:?}", row.shape));
                }
                Some(_) => {}
            }
        }
        problems.extend(
            found
                .values()
                .map(|(name, shape)| format!("`{name}` {shape:?} is not in the model of its config")),
        );
        (problems, foreign)
    }
}
