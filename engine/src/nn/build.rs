//! Builds blocks from named parameters.

mod adapters;

pub use adapters::AdapterDropout;

use super::dropout::CurrentKeys;
use super::embedding::VocabEmbedding;
use super::images::ImagePartition;
use super::linear::{ColumnLinears, Linear};
use super::norm::{LayerNorm, RmsNorm};
use super::recompute::{Block, Submodule};
use super::region::TensorRegion;
use super::weight::{Fp8Values, LinearWeight};
use crate::attention::{AttentionCore, CausalAttention, LocalAttention};
use crate::comm::Mesh;
use crate::effects::GemmGroup;
use crate::error::{EngineError, Result};
use crate::fp8::ScalingStates;
use crate::param_sync::Weight;
use crate::parameters::Parameters;
use crate::quantization::Quantized;
use neva_layout::{Adapters, Cut, LayerGroup, Part, layer_groups};
use neva_schemas::{MegatronStrategy, RecomputeModule, VisionPlacement};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tch::Tensor;

/// Trained parameters that were taken, by index.
type Taken = Rc<RefCell<BTreeMap<usize, Tensor>>>;

/// Source of a model's blocks. The model names parameters; layout and adapter come from the tables. The blocks wait for
/// gathered weights and handle recomputation.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    parameters: &'a Parameters,
    adapters: &'a Adapters,
    region: TensorRegion,
    attention: Arc<dyn CausalAttention>,
    images: ImagePartition,
    /// Keys of the microbatch that the model computes.
    keys: CurrentKeys,
    dropout: AdapterDropout,
    /// Scaling state of the linears that are computed in FP8, if any are.
    fp8: Option<&'a ScalingStates>,
    /// Strategy with the recomputation settings.
    strategy: &'a MegatronStrategy,
    /// Records of taken parameters: one for each enclosing block that may be recomputed.
    taken: Vec<Taken>,
    prefix: String,
}

impl<'a> Build<'a> {
    /// Starts at the root of the parameter names. This rank holds whole sequences and encodes every image; blocks are
    /// recomputed in the backward pass as `strategy` says.
    pub fn new(parameters: &'a Parameters, adapters: &'a Adapters, region: TensorRegion, strategy: &'a MegatronStrategy) -> Self {
        Self {
            parameters,
            adapters,
            region,
            attention: Arc::new(LocalAttention(AttentionCore::new(strategy.attention_backend, parameters.effects()))),
            images: ImagePartition::new(&Mesh::single(), VisionPlacement::Duplicated),
            keys: CurrentKeys::default(),
            dropout: AdapterDropout::default(),
            fp8: None,
            strategy,
            taken: Vec::new(),
            prefix: String::new(),
        }
    }

    /// Returns the same source for ranks that split sequences or images.
    pub fn sharing(self, attention: Arc<dyn CausalAttention>, images: ImagePartition) -> Self {
        Self { attention, images, ..self }
    }

    /// Returns the same source with dropout in the adapters. It acts while `keys` holds the keys of a microbatch.
    pub fn dropping(self, keys: CurrentKeys, dropout: AdapterDropout) -> Self {
        Self { keys, dropout, ..self }
    }

    /// Returns the same source with the linears of `fp8` in FP8.
    pub fn in_fp8(self, fp8: Option<&'a ScalingStates>) -> Self {
        Self { fp8, ..self }
    }

    /// Returns the same source, one level down.
    pub fn at(&self, name: &str) -> Self {
        Self {
            prefix: self.full_name(name),
            ..self.clone()
        }
    }

    /// Returns the same source with whole sequences on every rank: sequence parallelism is the language model's.
    pub fn whole_sequences(&self) -> Self {
        Self {
            region: self.region.whole_sequences(),
            ..self.clone()
        }
    }

    /// Region of tensor parallelism.
    pub fn region(&self) -> TensorRegion {
        self.region.clone()
    }

    /// The attention implementation.
    pub fn attention(&self) -> Arc<dyn CausalAttention> {
        self.attention.clone()
    }

    /// The attention core without a causal mask, and with a cache of keys.
    pub fn attention_core(&self) -> AttentionCore {
        AttentionCore::new(self.strategy.attention_backend, self.parameters.effects())
    }

    /// Partition of the images over the ranks.
    pub fn images(&self) -> ImagePartition {
        self.images.clone().keyed(self.keys.clone())
    }

    /// Groups of layers for recomputation.
    pub(super) fn layer_groups(&self, layers: Range<usize>) -> Vec<LayerGroup> {
        layer_groups(self.strategy, layers)
    }

    /// Makes the MLP of a layer at `name`, which is empty if its linears belong to the layer directly.
    ///
    /// # Errors
    /// That of `make`.
    pub fn mlp<B: Block>(&self, name: &str, make: impl FnOnce(&Self) -> Result<B>) -> Result<Submodule<B>> {
        self.submodule(self.strategy.recomputes(RecomputeModule::Mlp), |build| make(&build.at(name)))
    }

    /// Makes a block that is recomputed in the backward pass if `recomputed`, with the trained parameters that it takes.
    pub(super) fn submodule<B: Block>(&self, recomputed: bool, make: impl FnOnce(&Self) -> Result<B>) -> Result<Submodule<B>> {
        if !recomputed {
            return Ok(Submodule::new(make(self)?, None, self.keys.clone()));
        }
        let taken = Taken::default();
        let mut inner = self.clone();
        inner.taken.push(taken.clone());
        let block = make(&inner)?;
        let weights = taken.borrow().values().map(Tensor::shallow_clone).collect();
        Ok(Submodule::new(block, Some(weights), self.keys.clone()))
    }

    /// Takes the local shard of a parameter.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn weight(&self, name: &str) -> Result<Weight> {
        self.take(&self.full_name(name))
    }

    fn take(&self, full_name: &str) -> Result<Weight> {
        let parameter = self.parameters.get(full_name)?;
        if let Some(index) = self.parameters.trainable_index(full_name) {
            for taken in &self.taken {
                taken.borrow_mut().insert(index, parameter.tensor.shallow_clone());
            }
        }
        self.parameters.weight(full_name)
    }

    /// Takes the parameters `name.weight` and, if present, `name.bias`.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn linear(&self, name: &str) -> Result<Linear> {
        let linear = self.full_name(name);
        let (weight, bias) = (format!("{linear}.weight"), format!("{linear}.bias"));
        let adapter = self.adapters.linears.get(&linear);
        let adapter = adapter.map(|adapter| self.lora(adapter, &weight)).transpose()?;
        let bias = self.parameters.find(&bias).map(|_| self.take(&bias));
        let parameter = self.parameters.get(&weight)?;
        let kind = self.parameters.kind();
        let fp8 = self.fp8.map(|fp8| fp8.linear(&linear, parameter.spec.cut, self.region.group()));
        let values = match (&parameter.quantized, fp8.transpose()?.flatten()) {
            (Some(Quantized::Nf4(values)), _) => LinearWeight::Nf4(values.shallow_clone(), kind),
            (Some(Quantized::Fp8(values)), Some(fp8)) => LinearWeight::Fp8(fp8, Fp8Values::Frozen(values.shallow_clone(), kind)),
            (Some(Quantized::Fp8(_)), None) => return Err(EngineError::Bug(format!("`{weight}` is in FP8, but its linear is not"))),
            (None, Some(fp8)) => LinearWeight::Fp8(fp8, Fp8Values::Trained(self.take(&weight)?)),
            (None, None) => LinearWeight::Plain(self.take(&weight)?),
        };
        let group = match parameter.spec.part {
            Part::Vision => GemmGroup::Vision,
            Part::Projection => GemmGroup::Projector,
            Part::Language | Part::Adapter => GemmGroup::Decoder,
        };
        let effects = self.parameters.effects();
        if adapter.is_some() {
            effects.add_adapter(&linear);
        }
        Ok(Linear::new(
            (values, bias.transpose()?),
            parameter.spec.cut,
            self.region.clone(),
            adapter,
            effects.meter(group),
        ))
    }

    /// Takes linears that share their input: column-parallel or replicated.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn column_linears<const N: usize>(&self, names: [&str; N]) -> Result<ColumnLinears<N>> {
        let parts = names.iter().map(|name| self.linear(name)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnLinears::new(
            parts.try_into().unwrap_or_else(|_| unreachable!("one part per name")),
        ))
    }

    /// Takes the parameter `name.weight` as RMS norm; a sharded weight means a sharded normalized dim.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn rms_norm(&self, name: &str, eps: f64) -> Result<RmsNorm> {
        let name = format!("{name}.weight");
        let cut = self.parameters.get(&self.full_name(&name))?.spec.cut != Cut::Replicate;
        let cut_over = (cut && self.region.size() > 1).then(|| self.region.clone());
        Ok(RmsNorm::new(self.weight(&name)?, eps, cut_over))
    }

    /// Takes the parameters `name.weight` and `name.bias` as layer norm.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn layer_norm(&self, name: &str, eps: f64) -> Result<LayerNorm> {
        self.shifted_layer_norm(name, 0.0, eps)
    }

    /// Takes the parameters `name.weight` and `name.bias` as layer norm that adds 1 to its weight (Megatron's LayerNorm1p).
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn layer_norm_1p(&self, name: &str, eps: f64) -> Result<LayerNorm> {
        self.shifted_layer_norm(name, 1.0, eps)
    }

    fn shifted_layer_norm(&self, name: &str, shift: f64, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm::new(
            self.weight(&format!("{name}.weight"))?,
            self.weight(&format!("{name}.bias"))?,
            shift,
            eps,
        ))
    }

    /// Takes the parameter `name.weight` as embedding.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn vocab_embedding(&self, name: &str) -> Result<VocabEmbedding> {
        let name = format!("{name}.weight");
        let start = self
            .parameters
            .get(&self.full_name(&name))?
            .spec
            .shard(self.region.group().rank(), self.region.size())
            .map_or(0, |shard| shard.start);
        Ok(VocabEmbedding::new(self.weight(&name)?, start, self.region.clone()))
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.into()
        } else if name.is_empty() {
            self.prefix.clone()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}
