//! The linears that a run computes in FP8.

use crate::parameter::{ParamSpec, Part, Stage};
use crate::trainable::is_trainable;
use neva_schemas::{Finetune, Fp8};

/// The linears that a run computes in FP8: those of the language model's layers, and of other parts if the run says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Linears {
    /// Settings of FP8.
    pub settings: Fp8,
    num_layers: usize,
}

impl Fp8Linears {
    /// Returns the linears of a run; `None` if it does not compute in FP8.
    pub fn of(finetune: &Finetune) -> Option<Self> {
        Some(Self {
            settings: finetune.trainer.mixed_precision().fp8()?,
            num_layers: finetune.model.description().num_layers(),
        })
    }

    /// Returns whether `spec` is the weight of a linear that is computed in FP8.
    pub fn covers(&self, spec: &ParamSpec) -> bool {
        let covered = match (spec.part, spec.stage) {
            (Part::Language, Stage::Layer(layer)) => self.settings.covers_layer(layer, self.num_layers),
            (Part::Vision, _) => self.settings.vision_model,
            (Part::Projection, _) => self.settings.vision_projection,
            (Part::Language | Part::Adapter, _) => false,
        };
        covered && spec.used && spec.lora.is_some() && spec.shape.len() == 2
    }

    /// Returns whether a run keeps the weight `spec` in FP8 alone: it is frozen, so that no other copy is needed.
    pub fn keeps_only_fp8(&self, spec: &ParamSpec, finetune: &Finetune) -> bool {
        self.covers(spec) && !is_trainable(spec, finetune)
    }
}
