//! Interfaces of decoder, vision and projector families.

use super::config_reader::ConfigReader;
use crate::parameter::ParamSpec;
use neva_schemas::{Projector, TextConfig, VisionConfig, VisionPlacement, VisionTower};
use serde_json::Value;
use std::fmt::Debug;

/// Parameter names of a decoder within its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderNames<'a> {
    /// Prefix of everything but the head.
    pub body: &'a str,
    /// The linear from hidden states to logits.
    pub head: &'a str,
    /// Prefix of the layers in Megatron's names, which LoRA targets use.
    pub megatron: &'a str,
}

/// A family of decoder-only language models. Differences that are data are fields of [`TextConfig`].
pub trait DecoderFamily: Debug + Send + Sync {
    /// Returns the `model_type` in Hugging Face's `config.json`.
    fn hugging_face_type(&self) -> &'static str;

    /// Reads Hugging Face's config; `at` is its path for messages. `tied`: the whole model ties embedding
    /// and head.
    fn read_config(&self, config: &Value, at: &str, tied: bool, reader: &mut ConfigReader) -> TextConfig;

    /// Writes Hugging Face's config.
    fn write_config(&self, config: &TextConfig) -> Value;

    /// Returns all parameters, in the order in which they are created and saved.
    fn parameters(&self, config: &TextConfig, names: DecoderNames<'_>) -> Vec<ParamSpec>;

    /// Returns the full name of the weight `[vocabulary, hidden]` that computes logits from hidden states.
    fn head_weight(&self, config: &TextConfig, names: DecoderNames<'_>) -> String;

    /// Returns whether a tensor of this name in a file follows from the config.
    fn is_derived(&self, name: &str) -> bool;
}

/// A family of vision towers.
pub trait VisionFamily: Debug + Send + Sync {
    /// Returns the `model_type` in Hugging Face's `config.json`.
    fn hugging_face_type(&self) -> &'static str;

    /// Reads Hugging Face's config; `at` is its path for messages.
    fn read_config(&self, config: &Value, at: &str, reader: &mut ConfigReader) -> VisionConfig;

    /// Writes Hugging Face's config.
    fn write_config(&self, config: &VisionConfig) -> Value;

    /// Returns all parameters below `prefix`, in the order in which they are created and saved. Only the cuts depend on
    /// `placement`.
    fn parameters(&self, tower: &VisionTower, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec>;

    /// Returns the name below the tower's prefix in the hub's files for a name in memory.
    fn hub_name(&self, name: &str) -> String;

    /// Returns the values of `model_type` that [`Self::part_config`] accepts.
    fn part_types(&self) -> &'static [&'static str];

    /// Returns the name below the tower's prefix in memory for a name in the hub's files or in memory.
    fn canonical_name(&self, name: &str) -> String;

    /// Returns the tower's config from the `config.json` of the tower alone, or of another model with the tower; `None`
    /// for other models.
    fn part_config(&self, config: &Value) -> Option<Value>;

    /// Returns the name below the tower's prefix in memory for a name in such a folder (see [`Self::part_config`]);
    /// `None` for a name of another part.
    fn part_name(&self, name: &str) -> Option<String>;

    /// Returns the names (see [`Self::part_name`]) of the parameters that such a folder stores as one tensor, stacked along
    /// the rows in equal numbers; empty for a tensor of one parameter.
    fn fused_part_names(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    /// Returns whether a tensor of this name belongs to another part of such a folder's model.
    fn is_beside(&self, name: &str) -> bool;

    /// Returns whether a tensor of this name in a file is ignored: it follows from the config, or the model does not use it.
    fn is_derived(&self, name: &str, config: &VisionConfig) -> bool;
}

/// A family of projectors. Hugging Face's and the hub's names below the prefix are the same.
pub trait ProjectorFamily: Debug + Send + Sync {
    /// Returns all parameters below `prefix`, in the order in which they are created and saved. Only the cuts depend on
    /// `placement`.
    fn parameters(&self, projector: &Projector, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec>;
}
