//! Trainable parameters, and the table of them that a run prints at its start.

use crate::families::freeze_setting;
use crate::lora::saves_module;
use crate::parameter::{ParamSpec, Part};
use neva_schemas::{Finetune, Peft};
use serde::Serialize;

/// Returns whether the run trains `spec`. With LoRA the language model is frozen and the vision encoder is not, as in
/// NeVA's documentation (NeMo's code silently freezes it). The projector trains unless the model freezes it.
///
/// An adapter of a linear that is not used is a trained parameter without gradients, as in PEFT: it keeps its values and
/// is saved.
pub fn is_trainable(spec: &ParamSpec, finetune: &Finetune) -> bool {
    let lora = finetune.peft.as_ref().map(Peft::lora);
    let saved = || lora.is_some_and(|lora| saves_module(&lora.modules_to_save, &spec.name));
    match spec.part {
        Part::Adapter => true,
        part => spec.used && (frozen_by(part, finetune).is_none() || saved()),
    }
}

/// Returns the setting that freezes a part of the model.
fn frozen_by(part: Part, finetune: &Finetune) -> Option<String> {
    let (model, lora) = (finetune.model.freezing(), finetune.peft.as_ref().map(Peft::lora));
    let (of_model, of_lora) = match part {
        Part::Adapter => (false, false),
        Part::Projection => (model.projector, false),
        Part::Language => (model.decoder, lora.is_some_and(|lora| lora.freeze_language_model)),
        Part::Vision => (model.vision, lora.is_some_and(|lora| lora.freeze_vision_model)),
    };
    let setting = freeze_setting(part)?;
    let by = |section: &str| Some(format!("finetune.{section}.{setting}"));
    match (of_model, of_lora) {
        (true, _) => by("model"),
        (false, true) => by("peft"),
        (false, false) => None,
    }
}

/// A line of the trainable-parameter table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartSummary {
    /// Part of the model.
    pub part: Part,
    /// Part of the model whose linears the adapters of this line adapt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapts: Option<Part>,
    /// Number of its values.
    pub total: u64,
    /// Number of values that the run trains.
    pub trainable: u64,
    /// The setting that freezes the part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_by: Option<String>,
}

/// Returns the table: parameters by part of the model, adapters by the part that they adapt.
pub fn summary(specs: &[ParamSpec], finetune: &Finetune) -> Vec<PartSummary> {
    const PARTS: [Part; 3] = [Part::Language, Part::Projection, Part::Vision];
    let lines = PARTS.map(|part| (part, None)).into_iter();
    let lines = lines.chain(PARTS.map(|part| (Part::Adapter, Some(part))));
    lines
        .map(|(part, adapts)| {
            let own = specs.iter().filter(|spec| spec.part == part && spec.adapts == adapts);
            let count = |only_trained: bool| {
                let counted = own
                    .clone()
                    .filter(|spec| !only_trained || (spec.used && is_trainable(spec, finetune)));
                counted.map(|spec| spec.numel() as u64).sum()
            };
            PartSummary {
                part,
                adapts,
                total: count(false),
                trainable: count(true),
                frozen_by: frozen_by(part, finetune),
            }
        })
        .filter(|line| line.total > 0)
        .collect()
}
