//! Rows for the parameters of vision transformers and projectors.

use crate::parameter::{Cut, Init, LoraModule, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::VisionPlacement;

/// Rows of a part before the decoder, in the order in which they are added.
#[derive(Debug)]
pub(super) struct VisionRows<'a> {
    part: Part,
    prefix: &'a str,
    placement: VisionPlacement,
    rows: Vec<ParamSpec>,
}

/// One linear.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinearRow {
    /// Output and input width.
    pub(super) shape: [usize; 2],
    /// Initial weight.
    pub(super) init: Init,
    /// Initial bias; `None` without a bias.
    pub(super) bias: Option<Init>,
    /// Cut of the weight under `VisionPlacement::Cut`.
    pub(super) cut: Cut,
    /// False for weights that never take part in the forward pass.
    pub(super) used: bool,
}

impl<'a> VisionRows<'a> {
    pub(super) fn new(part: Part, prefix: &'a str, placement: VisionPlacement) -> Self {
        Self {
            part,
            prefix,
            placement,
            rows: Vec::new(),
        }
    }

    /// Returns the rows.
    pub(super) fn finish(self) -> Vec<ParamSpec> {
        self.rows
    }

    /// Adds a parameter that every rank holds.
    pub(super) fn whole(&mut self, name: &str, shape: &[usize], init: Init, used: bool) {
        self.add(name, shape, init, Cut::Replicate, used);
    }

    /// Adds a parameter with the cut of its rows.
    pub(super) fn add(&mut self, name: &str, shape: &[usize], init: Init, cut: Cut, used: bool) {
        let cut = self.placed(cut);
        self.rows.push(ParamSpec {
            name: format!("{}.{name}", self.prefix),
            shape: shape.to_vec(),
            init,
            cut,
            heads: None,
            stage: Stage::First,
            part: self.part,
            adapts: None,
            lora: None,
            partial_sum: PartialSum::SharedImages.if_replicated(cut),
            used,
        });
    }

    /// Adds the weight and the bias of a LayerNorm.
    pub(super) fn layer_norm(&mut self, name: &str, width: usize, used: bool) {
        self.whole(&format!("{name}.weight"), &[width], Init::Ones, used);
        self.whole(&format!("{name}.bias"), &[width], Init::Zeros, used);
    }

    /// Adds the weight of an RMSNorm.
    pub(super) fn rms_norm(&mut self, name: &str, width: usize, used: bool) {
        self.whole(&format!("{name}.weight"), &[width], Init::Ones, used);
    }

    /// Adds the weight of a linear, which LoRA can name, and its bias.
    pub(super) fn linear(&mut self, name: &str, linear: LinearRow) {
        let LinearRow {
            shape,
            init,
            bias,
            cut,
            used,
        } = linear;
        let full = format!("{}.{name}", self.prefix);
        self.add(&format!("{name}.weight"), &shape, init, cut, used);
        if let Some(weight) = self.rows.last_mut() {
            weight.lora = Some(LoraModule {
                megatron: None,
                canonical: None,
                saved_as: full.clone(),
                partial_sum: PartialSum::SharedImages,
                linear: full,
            });
        }
        if let Some(init) = bias {
            // The bias of a row-parallel linear is added to the sum.
            let cut = if cut == Cut::Row { Cut::Replicate } else { cut };
            self.add(&format!("{name}.bias"), &shape[..1], init, cut, used);
        }
    }

    /// Every rank has the whole part, except with `VisionPlacement::Cut`.
    fn placed(&self, cut: Cut) -> Cut {
        match self.placement {
            VisionPlacement::Cut => cut,
            VisionPlacement::Shared | VisionPlacement::Duplicated => Cut::Replicate,
        }
    }
}
