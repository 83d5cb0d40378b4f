//! Puts building blocks together out of named parameters.

use super::{Arrival, Block, CausalAttention, ColumnLinears, LayerNorm, Linear, LocalAttention, Lora, Recomputed, RmsNorm, VocabEmbedding};
use crate::comm::Mesh;
use crate::error::Result;
use crate::parallel::{PictureShares, TensorRegion};
use crate::parameters::Parameters;
use neva_layout::{Adapters, LayerGroup, layer_groups};
use neva_schemas::{MegatronStrategy, RecomputeModule, VisionPlacement};
use std::ops::Range;
use std::sync::Arc;
use tch::Tensor;

/// Where a model takes its parameters from. The model names them; layout and adapter come from the tables.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    parameters: &'a Parameters,
    adapters: &'a Adapters,
    adapter_scale: f64,
    region: TensorRegion,
    attention: Arc<dyn CausalAttention>,
    pictures: PictureShares,
    /// What it says of recomputation.
    strategy: &'a MegatronStrategy,
    arrival: Arrival,
    prefix: String,
}

impl<'a> Build<'a> {
    /// Starts at the top of the parameters' names. All of each sequence is here, and every picture is encoded here; parts
    /// are computed again in the backward pass as `strategy` says.
    pub fn new(
        parameters: &'a Parameters,
        adapters: &'a Adapters,
        adapter_scale: f64,
        region: TensorRegion,
        strategy: &'a MegatronStrategy,
    ) -> Self {
        Self {
            parameters,
            adapters,
            adapter_scale,
            region,
            attention: Arc::new(LocalAttention),
            pictures: PictureShares::new(&Mesh::single(), VisionPlacement::Duplicated),
            strategy,
            arrival: Arrival::default(),
            prefix: String::new(),
        }
    }

    /// The same, where sequences or pictures are shared with other ranks.
    pub fn sharing(self, attention: Arc<dyn CausalAttention>, pictures: PictureShares) -> Self {
        Self {
            attention,
            pictures,
            ..self
        }
    }

    /// The same, one level down.
    pub fn at(&self, name: &str) -> Self {
        Self {
            prefix: self.full_name(name),
            ..self.clone()
        }
    }

    /// The same, with all of each sequence on every rank: sequence parallelism is the language model's.
    pub fn whole_sequences(&self) -> Self {
        Self {
            region: self.region.whole_sequences(),
            ..self.clone()
        }
    }

    /// Where the part of the model at this name waits for its weights.
    pub fn arrival(&self) -> Arrival {
        self.arrival.at(&self.prefix)
    }

    /// The region that cut matrices are spread over.
    pub fn region(&self) -> TensorRegion {
        self.region.clone()
    }

    /// How queries find their keys.
    pub fn attention(&self) -> Arc<dyn CausalAttention> {
        self.attention.clone()
    }

    /// Who encodes which pictures.
    pub fn pictures(&self) -> PictureShares {
        self.pictures.clone()
    }

    /// How layers are grouped for recomputation.
    pub(super) fn layer_groups(&self, layers: Range<usize>) -> Vec<LayerGroup> {
        layer_groups(self.strategy, layers)
    }

    /// A part of a layer, with all of its parameters below `name`.
    pub fn recomputed<B: Block>(&self, module: RecomputeModule, name: &str, block: B) -> Recomputed<B> {
        let again = self.strategy.recomputes(module);
        Recomputed::new(block, again.then(|| self.trained(name)))
    }

    /// The trained parameters below `name`, those of adapters included.
    pub(super) fn trained(&self, name: &str) -> Vec<Tensor> {
        let prefix = format!("{}.", self.full_name(name));
        let below = self
            .parameters
            .trainable()
            .filter(|parameter| parameter.spec.name.starts_with(&prefix));
        below.map(|parameter| parameter.tensor.shallow_clone()).collect()
    }

    /// The local part of a parameter.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.parameters.get(&self.full_name(name))?.tensor.shallow_clone())
    }

    /// The parameters `name.weight` and, where there is one, `name.bias`.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn linear(&self, name: &str) -> Result<Linear> {
        let linear = self.full_name(name);
        let weight = self.parameters.get(&format!("{linear}.weight"))?;
        let bias = self
            .parameters
            .find(&format!("{linear}.bias"))
            .map(|bias| bias.tensor.shallow_clone());
        let adapter = match self.adapters.linears.get(&linear) {
            Some(adapter) => Some(Lora {
                a: self.parameters.get(&adapter.a)?.tensor.shallow_clone(),
                b: self.parameters.get(&adapter.b)?.tensor.shallow_clone(),
                scale: self.adapter_scale,
            }),
            None => None,
        };
        Ok(Linear::new(
            weight.tensor.shallow_clone(),
            bias,
            weight.spec.cut,
            self.region.clone(),
            adapter,
        ))
    }

    /// Maps that share their input, cut by columns or not at all.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn column_linears<const N: usize>(&self, names: [&str; N]) -> Result<ColumnLinears<N>> {
        let parts = names.iter().map(|name| self.linear(name)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnLinears::new(
            parts.try_into().unwrap_or_else(|_| unreachable!("one part per name")),
        ))
    }

    /// The parameter `name.weight` as RMS norm.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn rms_norm(&self, name: &str, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm::new(self.tensor(&format!("{name}.weight"))?, eps))
    }

    /// The parameters `name.weight` and `name.bias` as layer norm.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn layer_norm(&self, name: &str, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm::new(
            self.tensor(&format!("{name}.weight"))?,
            self.tensor(&format!("{name}.bias"))?,
            eps,
        ))
    }

    /// The parameter `name.weight` as embedding.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn vocab_embedding(&self, name: &str) -> Result<VocabEmbedding> {
        let weight = self.parameters.get(&self.full_name(&format!("{name}.weight")))?;
        let start = weight
            .spec
            .shard(self.region.group().rank(), self.region.size())
            .map_or(0, |shard| shard.start);
        Ok(VocabEmbedding::new(weight.tensor.shallow_clone(), start, self.region.clone()))
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.into()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}
