//! Common parts of vision transformers: selected hidden states, and the layers of CLIP and SigLIP.

use crate::attention::AttentionCore;
use crate::error::Result;
use crate::nn::{Block, Build, ColumnLinears, LayerNorm, Linear, Stack, activate};
use neva_schemas::{Activation, FeatureSelect, VisionConfig, VisionTower};
use tch::Tensor;

/// The layers up to the last selected hidden state, and the selected hidden states.
#[derive(Debug)]
pub(super) struct Features<L> {
    /// Layers between two selected hidden states.
    stretches: Vec<Stack<L>>,
    /// For each feature, in the order of concatenation, the index of the stack whose output it is.
    taken: Vec<usize>,
    select: FeatureSelect,
}

impl<L: Block<With = ()>> Features<L> {
    /// Takes the layers `name.0`, `name.1` and so on that are in use.
    pub(super) fn new(tower: &VisionTower, build: &Build<'_>, name: &str, layer: impl Fn(&Build<'_>) -> Result<L>) -> Result<Self> {
        let features = tower.features();
        let mut ends = features.clone();
        ends.sort_unstable();
        ends.dedup();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let stretches = starts
            .zip(&ends)
            .map(|(start, end)| Stack::new(build, name, start..*end, |_, build| layer(build)));
        let stretches = stretches.collect::<Result<Vec<_>>>()?;
        let place = |feature: usize| ends.partition_point(|end| *end < feature);
        Ok(Self {
            stretches,
            taken: features.into_iter().map(place).collect(),
            select: tower.feature_select,
        })
    }

    /// Computes features `[b, s, h]` from the embedding `x_bsh`; those of several layers are concatenated along `h`. `finish`
    /// is applied to the last selected hidden state.
    pub(super) fn forward(&self, x_bsh: Tensor, finish: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let mut states: Vec<Tensor> = Vec::new();
        for stretch in &self.stretches {
            let state = stretch.forward(states.last().unwrap_or(&x_bsh), &())?;
            states.push(state);
        }
        if let Some(last) = states.pop() {
            states.push(finish(last)?);
        }
        let select = |state: &Tensor| match self.select {
            FeatureSelect::Default => state.narrow(1, 1, state.size()[1] - 1),
            FeatureSelect::Full => state.shallow_clone(),
        };
        let features: Vec<_> = self.taken.iter().map(|stretch| select(&states[*stretch])).collect();
        Ok(match &features[..] {
            [feature] => feature.shallow_clone(),
            features => Tensor::cat(features, -1),
        })
    }
}

/// Splits an image into patches: `[b, channels, height, width]` to `[b, patches, h]`.
pub(super) fn patches(pixels: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let patch = weight.size()[2];
    pixels.conv2d(weight, bias, patch, 0, 1, 1).flatten(2, 3).transpose(1, 2)
}

/// Full attention between all positions.
///
/// # Errors
/// There is no memory.
pub(super) fn attention(core: &AttentionCore, [q_bsh, k_bsh, v_bsh]: [Tensor; 3], head_dim: i64) -> Result<Tensor> {
    let heads = |y_bsh: Tensor| {
        let size = y_bsh.size();
        y_bsh.view([size[0], size[1], -1, head_dim]).transpose(1, 2)
    };
    core.attend(&heads(q_bsh), &heads(k_bsh), &heads(v_bsh), None)
}

/// A layer of CLIP or of SigLIP.
#[derive(Debug)]
pub(super) struct Layer {
    norm1: LayerNorm,
    qkv: ColumnLinears<3>,
    core: AttentionCore,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    head_dim: i64,
    activation: Activation,
}

impl Layer {
    pub(super) fn new(config: &VisionConfig, build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            norm1: build.layer_norm("layer_norm1", config.layer_norm_eps)?,
            qkv: build.column_linears(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            core: build.attention_core(),
            out: build.linear("self_attn.out_proj")?,
            norm2: build.layer_norm("layer_norm2", config.layer_norm_eps)?,
            fc1: build.linear("mlp.fc1")?,
            fc2: build.linear("mlp.fc2")?,
            head_dim: config.head_dim() as i64,
            activation: config.activation(),
        })
    }
}

impl Block for Layer {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x_bsh)?)?;
        let x_bsh = x_bsh + self.out.forward(&attention(&self.core, qkv, self.head_dim)?)?;
        let y_bsf = activate(self.activation, &self.fc1.forward(&self.norm2.forward(&x_bsh)?)?);
        Ok(x_bsh + self.fc2.forward(&y_bsf)?)
    }
}
