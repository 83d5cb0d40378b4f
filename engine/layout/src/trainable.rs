//! What is trained, and the table that says so at the start of a run.

use crate::parameter::{ParamSpec, Part};
use neva_schemas::{Finetune, Peft};
use serde::Serialize;

/// Whether the run trains `spec`. Under LoRA the language model is frozen and the vision encoder is
/// not, as NeVA's document says (NeMo's code silently freezes it); the projector always trains unless
/// the model says otherwise.
pub fn is_trainable(spec: &ParamSpec, finetune: &Finetune) -> bool {
    let model = finetune.model.llava();
    let lora = finetune.peft.as_ref().map(Peft::lora);
    let frozen = match spec.part {
        Part::Adapter => false,
        Part::Projection => model.freeze_vision_projection,
        Part::Language => model.freeze_language_model || lora.is_some_and(|lora| lora.freeze_language_model),
        Part::Vision => model.freeze_vision_model || lora.is_some_and(|lora| lora.freeze_vision_model),
    };
    spec.used && !frozen
}

/// A line of the trainable-parameter table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartSummary {
    /// Part of the model.
    pub part: Part,
    /// Its parameters.
    pub total: u64,
    /// Those that the run trains.
    pub trainable: u64,
}

/// The table: parameters by part.
pub fn summary(specs: &[ParamSpec], finetune: &Finetune) -> Vec<PartSummary> {
    [Part::Language, Part::Projection, Part::Vision, Part::Adapter]
        .into_iter()
        .map(|part| {
            let count = |only_trainable: bool| {
                let of_part = specs
                    .iter()
                    .filter(|spec| spec.part == part && (!only_trainable || is_trainable(spec, finetune)));
                of_part.map(|spec| spec.numel() as u64).sum()
            };
            PartSummary {
                part,
                total: count(false),
                trainable: count(true),
            }
        })
        .filter(|line| line.total > 0)
        .collect()
}
