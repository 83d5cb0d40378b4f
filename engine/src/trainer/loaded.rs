//! A model on one rank: its parameters, and the modules that hold them.

use crate::checkpoint::{Placement, Sources, load_parameters};
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::loss::Head;
use crate::model::{Batch, Llava};
use crate::nn::Build;
use crate::parallel::TensorRegion;
use crate::parameters::Parameters;
use neva_layout::{Adapters, llava_parameters, lora_adapters};
use neva_schemas::{Finetune, Peft, Precision};
use tch::{Device, Kind, Tensor};

/// Parameters, model and head.
#[derive(Debug)]
pub struct LoadedModel {
    /// Every parameter of this rank.
    pub parameters: Parameters,
    /// Everything up to the last hidden state.
    pub model: Llava,
    /// From hidden states to logits and loss.
    pub head: Head,
}

impl LoadedModel {
    /// Loads or makes all parameters of this rank, and puts the model together. The order matters: adapters
    /// are parameters like others, and the linears take theirs up when they are built.
    ///
    /// # Errors
    /// The weights do not fit the run, or a target module names nothing.
    pub fn load(finetune: &Finetune, sources: Sources<'_>, mesh: &Mesh, device: Device) -> Result<Self> {
        let config = finetune.model.llava();
        let mut specs = llava_parameters(config);
        let lora = finetune.peft.as_ref().map(Peft::lora);
        let adapters = match lora {
            Some(lora) => lora_adapters(config, &specs, lora, "finetune.peft").map_err(EngineError::Run)?,
            None => Adapters::default(),
        };
        for pattern in &adapters.unmatched {
            tracing::debug!("finetune.peft.target_modules: {pattern:?} matches nothing");
        }
        specs.extend(adapters.parameters.iter().cloned());
        let group = mesh.axis(Axis::Tensor).clone();
        let kind = match finetune.trainer.precision() {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16Mixed => Kind::BFloat16,
        };
        let placement = Placement {
            tp_rank: group.rank(),
            tp: group.size(),
            kind,
            device,
        };
        let parameters = load_parameters(&specs, finetune, sources, placement)?;
        let region = TensorRegion::new(group.clone(), finetune.trainer.strategy.sequence_parallel);
        let scale = lora.map_or(1.0, |lora| lora.alpha / lora.dim as f64);
        let model = Llava::new(config, &Build::new(&parameters, &adapters, scale, region.clone()))?;
        let tied = config.text_config.tie_word_embeddings;
        let weight = parameters.get(if tied {
            "model.language_model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        })?;
        let (start, len) = match weight.spec.shard(group.rank(), group.size()) {
            Some(shard) => (shard.start, shard.len),
            None => (0, weight.spec.shape[0]),
        };
        let head = Head::new(weight.tensor.shallow_clone(), start, len, region);
        Ok(Self { parameters, model, head })
    }

    /// Sum of the cross entropy at the labelled positions; `None` where there are none.
    ///
    /// # Errors
    /// A collective failed.
    pub fn loss_sum(&self, batch: &Batch) -> Result<Option<Tensor>> {
        self.head.loss_sum(&self.model.forward(batch)?, &batch.labels_bs)
    }
}
