//! The families that a program knows, by name.

use super::clip::Clip;
use super::config_reader::ConfigReader;
use super::family::{DecoderFamily, ProjectorFamily, VisionFamily};
use super::intern_vit::InternVit;
use super::llama::Llama;
use super::mistral::Mistral;
use super::mlp::Mlp;
use super::nemotron::Nemotron;
use super::pixel_shuffle::PixelShuffle;
use super::qwen2::Qwen2;
use super::siglip::Siglip;
use serde_json::Value;

/// The families that a program knows, each by the name that `model_type` has in a recipe.
#[derive(Debug, Clone)]
pub struct Families {
    pub(super) decoders: Vec<(&'static str, &'static dyn DecoderFamily)>,
    pub(super) vision: Vec<(&'static str, &'static dyn VisionFamily)>,
    pub(super) projectors: Vec<(&'static str, &'static dyn ProjectorFamily)>,
}

impl Default for Families {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Families {
    /// Those of this program.
    pub fn builtin() -> Self {
        Self {
            decoders: vec![
                ("llama", &Llama as &dyn DecoderFamily),
                ("mistral", &Mistral),
                ("nemotron", &Nemotron),
                ("qwen2", &Qwen2),
            ],
            vision: vec![
                ("clip_vision_model", &Clip as &dyn VisionFamily),
                ("siglip_vision_model", &Siglip),
                ("internvl_vision", &InternVit),
            ],
            projectors: vec![("mlp", &Mlp as &dyn ProjectorFamily), ("internvl", &PixelShuffle)],
        }
    }

    /// Adds a family of decoders.
    #[must_use]
    pub fn decoder(mut self, name: &'static str, family: &'static dyn DecoderFamily) -> Self {
        self.decoders.push((name, family));
        self
    }

    /// Adds a family of vision towers.
    #[must_use]
    pub fn vision(mut self, name: &'static str, family: &'static dyn VisionFamily) -> Self {
        self.vision.push((name, family));
        self
    }

    /// Returns the decoder family of a `model_type`.
    pub(super) fn decoder_of_type(&self, kind: &str) -> Option<&'static dyn DecoderFamily> {
        let mut families = self.decoders.iter().map(|(_, family)| *family);
        families.find(|family| family.hugging_face_type() == kind)
    }

    /// Returns the family that a decoder's config names, or `default` if it names none. For an unknown name it adds a
    /// problem and returns the first family, so that the rest of the config is checked, too.
    pub(super) fn decoder_of_config(
        &self,
        config: &Value,
        at: &str,
        default: &str,
        reader: &mut ConfigReader,
    ) -> &'static dyn DecoderFamily {
        let types: Vec<_> = self.decoders.iter().map(|(_, family)| family.hugging_face_type()).collect();
        self.decoders[of_config(config, at, &types, default, reader)].1
    }

    /// The same for a vision tower's config.
    pub(super) fn vision_of_config(&self, config: &Value, at: &str, default: &str, reader: &mut ConfigReader) -> &'static dyn VisionFamily {
        let types: Vec<_> = self.vision.iter().map(|(_, family)| family.hugging_face_type()).collect();
        self.vision[of_config(config, at, &types, default, reader)].1
    }
}

/// Returns the index of the type that a config names; `default` if it names none.
fn of_config(config: &Value, at: &str, types: &[&str], default: &str, reader: &mut ConfigReader) -> usize {
    reader.expect(config, at, "model_type", types, default);
    let named = config.get("model_type").map_or(Some(default), Value::as_str);
    types.iter().position(|known| Some(*known) == named).unwrap_or(0)
}
