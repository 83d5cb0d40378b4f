//! Names of parameters and modules in exported files.

use super::language::DECODER_ALONE;
use super::llava::{DECODER, PROJECTOR, Place, VISION};
use super::table::ModelTable;
use crate::parameter::Part;
use neva_schemas::NameLayout;

impl ModelTable {
    /// Returns the name in a file of the layout `names` for a canonical name.
    pub fn exported_name(&self, names: NameLayout, canonical: &str) -> String {
        match names {
            NameLayout::Original => self.hub_name(canonical),
            NameLayout::Newer => canonical.to_owned(),
        }
    }

    /// Returns the name in files of LLaVA's own code for a canonical name of a LLaVA; `None` if that code has no such tensor.
    pub fn llava_code_name(&self, canonical: &str) -> Option<String> {
        Some(match Place::of(canonical)? {
            // The class of the tower, its CLIP, and what CLIP's files have.
            Place::Vision(rest) => format!("{VISION}.vision_tower.{}", self.vision_family()?.hub_name(rest)),
            Place::Projector(rest) => {
                let (linear, tensor) = rest.strip_prefix("linear_")?.split_once('.')?;
                let number: usize = linear.parse().ok()?;
                // A sequence of linears and activations; a single linear is no sequence.
                match self.description.projector.as_ref()?.kind.linears() {
                    1 => format!("model.mm_projector.{tensor}"),
                    _ => format!("model.mm_projector.{}.{tensor}", 2 * (number - 1)),
                }
            }
            Place::Decoder(rest) => format!("{}.{rest}", DECODER_ALONE.body),
            Place::Head(name) => name.to_owned(),
        })
    }

    /// Returns the module that holds a whole part besides the decoder, as PEFT's `modules_to_save` names it.
    pub fn module_of_part(&self, part: Part) -> Option<&'static str> {
        let prefix = match part {
            Part::Projection => PROJECTOR,
            Part::Vision => VISION,
            Part::Language | Part::Adapter => return None,
        };
        prefix.rsplit('.').next()
    }

    /// Splits the canonical name of a module: a regular expression for the prefix of its part in every layout of names, and
    /// the rest of the name.
    pub fn module_pattern<'a>(&self, canonical: &'a str) -> (&'static str, &'a str) {
        if self.vision_family().is_none() {
            return ("", canonical);
        }
        // `Place` finds the head by the tensor's name.
        match Place::of(canonical) {
            Some(Place::Vision(rest)) => (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", rest),
            Some(Place::Projector(rest)) => (r"(?:model\.)?multi_modal_projector\.", rest),
            Some(Place::Decoder(rest)) => (r"(?:model\.)?language_model\.(?:model\.)?", rest),
            Some(Place::Head(name)) => (r"(?:language_model\.)?", name),
            None if canonical == DECODER.head => (r"(?:language_model\.)?", canonical),
            None => ("", canonical),
        }
    }
}
