//! Trainable parameters, and the table of them that a run prints at its start.

use crate::parameter::{ParamSpec, Part};
use neva_schemas::{Finetune, Peft};
use serde::Serialize;

/// Returns whether the run trains `spec`. With LoRA the language model is frozen and the vision encoder is not, as in
/// NeVA's documentation (NeMo's code silently freezes it). The projector trains unless the model freezes it.
pub fn is_trainable(spec: &ParamSpec, finetune: &Finetune) -> bool {
    let model = finetune.model.freezing();
    let lora = finetune.peft.as_ref().map(Peft::lora);
    let frozen = match spec.part {
        Part::Adapter => false,
        Part::Projection => model.projector,
        Part::Language => model.decoder || lora.is_some_and(|lora| lora.freeze_language_model),
        Part::Vision => model.vision || lora.is_some_and(|lora| lora.freeze_vision_model),
    };
    spec.used && !frozen
}

/// A line of the trainable-parameter table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartSummary {
    /// Part of the model.
    pub part: Part,
    /// Number of its values.
    pub total: u64,
    /// Number of values that the run trains.
    pub trainable: u64,
}

/// Returns the table: parameters by part of the model.
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
