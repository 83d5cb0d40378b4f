//! One part of a model out of a Hugging Face folder: of a language model, of a vision encoder, or of a whole model.

use super::config_reader::HfConfigError;
use super::llava::{DECODER, VISION, is_composite};
use super::table::ModelTable;
use crate::model_differences::{config_differences, model_fields};
use crate::parameter::Part;
use neva_schemas::{Model, Problem};
use serde_json::{Value, json};
use std::path::Path;

/// Kind of the model that a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartContents {
    /// A whole model.
    Whole,
    /// The part alone.
    Part,
}

impl ModelTable {
    /// Returns what a folder with this `config.json` holds of `part`, and the config as that of a whole model; `None`
    /// where it has no such part.
    fn part_of_config(&self, part: Part, config: &Value) -> Option<(PartContents, Value)> {
        let kind = config.get("model_type").and_then(Value::as_str)?;
        let decoder = self.decoder_family().is_some_and(|family| family.hugging_face_type() == kind);
        match part {
            _ if is_composite(config) => Some((PartContents::Whole, config.clone())),
            Part::Language if decoder => Some((PartContents::Part, json!({ "text_config": config }))),
            Part::Vision => {
                let own = self.vision_family()?.part_config(config)?;
                Some((PartContents::Part, json!({ "vision_config": own })))
            }
            Part::Language | Part::Projection | Part::Adapter => None,
        }
    }

    /// Compares a folder's `config.json` with the `part` of this model. Returns what the folder holds, and every
    /// difference; `None` where it has no such part.
    ///
    /// # Errors
    /// Everything in the file that this program does not implement.
    pub fn check_part(&self, part: Part, config: &Value, path: &Path) -> Result<Option<(PartContents, Vec<Problem>)>, HfConfigError> {
        let Some((contents, whole)) = self.part_of_config(part, config) else {
            return Ok(None);
        };
        let mut found = self.families().read_config(&whole)?;
        let section = match part {
            Part::Language => "text_config",
            Part::Vision => "vision_config",
            Part::Projection | Part::Adapter => return Ok(Some((contents, Vec::new()))),
        };
        // Rows that the folder lacks are made.
        if let (Model::Llava(found), Model::Llava(wanted)) = (&mut found, self.model()) {
            let (rows, wanted) = (&mut found.text_config.vocab_size, wanted.text_config.vocab_size);
            *rows = wanted.max(*rows);
        }
        let fields = |model: &Model| model_fields(model).get(section).cloned().unwrap_or_default();
        let mut problems = Vec::new();
        let at = format!("finetune.model.{section}");
        config_differences(&at, &fields(&found), &fields(self.model()), path, &mut problems);
        Ok(Some((contents, problems)))
    }

    /// Canonical name of a tensor in a folder that holds one part alone, or `None` for a foreign one.
    pub fn canonical_part_name(&self, part: Part, name: &str) -> Option<String> {
        match part {
            Part::Language if name.starts_with(&format!("{}.", DECODER.head)) => Some(name.to_owned()),
            Part::Language => name.strip_prefix("model.").map(|rest| format!("{}.{rest}", DECODER.body)),
            Part::Vision => self.vision_family()?.part_name(name).map(|rest| format!("{VISION}.{rest}")),
            Part::Projection | Part::Adapter => None,
        }
    }

    /// Returns the canonical names of the parameters that one tensor of such a folder stacks along the rows, in equal
    /// numbers; empty for a tensor of one parameter.
    pub fn fused_part_names(&self, part: Part, name: &str) -> Vec<String> {
        let Some(family) = self.vision_family().filter(|_| part == Part::Vision) else {
            return Vec::new();
        };
        let names = family.fused_part_names(name).into_iter();
        names.map(|rest| format!("{VISION}.{rest}")).collect()
    }

    /// Returns whether a tensor of such a folder belongs to the rest of its model, which this one has no use for.
    pub fn is_beside_part(&self, name: &str) -> bool {
        self.vision_family().is_some_and(|family| family.is_beside(name))
    }
}
