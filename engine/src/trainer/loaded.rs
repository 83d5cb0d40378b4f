//! A model on one rank: its parameters and model chunks.

use super::output_positions::LastHiddenStates;
use super::row_norms::fill_row_norms;
use crate::attention::{AttentionCore, CausalAttention, LocalAttention, refuse_backend};
use crate::checkpoint::{Placement, Sources, load_run_parameters};
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::fp8::ScalingStates;
use crate::loss::Head;
use crate::model::{ModelChunk, Models};
use crate::nn::{AdapterDropout, Build, CurrentKeys, ImagePartition, OutputPositions, RecomputedAttention, TensorRegion};
use crate::parallel::ContextAttention;
use crate::parameters::Parameters;
use crate::precision::compute_kind;
use crate::sample_keys::SampleKeys;
use neva_layout::{Adapters, ChunkSpec, Fp8Linears, ModelFlops, ModelTable, ParamSpec, Part, Stages, is_trainable, lora_adapters};
use neva_schemas::{Finetune, MegatronStrategy, Peft, Problem, RecomputeModule};
use neva_torch_ffi::choose_float32_products;
use std::sync::Arc;
use tch::Device;

/// One rank's parameters of a model, and the model chunks built from them.
#[derive(Debug)]
pub struct LoadedModel {
    /// Parameters of this rank.
    pub parameters: Parameters,
    /// Specs of all parameters of the whole model, including those on other ranks.
    pub specs: Vec<ParamSpec>,
    /// The model chunks of this pipeline rank.
    pub chunks: Vec<Chunk>,
    /// The partition of the layers into pipeline stages.
    pub stages: Stages,
    /// Scaling state of the linears that are computed in FP8, if any are.
    pub fp8: Option<ScalingStates>,
    /// Linears with an adapter, on all ranks.
    pub(super) adapted: Vec<String>,
    /// Names of the trained parameters that the forward pass uses, on all ranks, and whether each is an adapter's.
    pub(super) trained: Vec<(String, bool)>,
    /// Keys of the microbatch that the model computes, for the dropout of adapters.
    pub(super) keys: CurrentKeys,
    /// Choice of the positions whose last hidden states are computed.
    pub(super) last_hidden_states: LastHiddenStates,
    /// Operations of the model.
    pub(super) flops: ModelFlops,
}

/// One model chunk.
#[derive(Debug)]
pub struct Chunk {
    /// Computes the chunk's hidden states.
    pub model: Box<dyn ModelChunk>,
    /// Computes logits and loss from hidden states, on the last chunk.
    pub head: Option<Head>,
    /// Indices of its parameters among the rank's trainable parameters.
    pub trained: Vec<usize>,
    /// True if the run trains any parameter in an earlier chunk.
    pub input_trained: bool,
    /// True if the run trains any parameter in this or an earlier chunk.
    pub output_trained: bool,
}

impl LoadedModel {
    /// Loads or initializes all parameters of this rank, and builds its model chunks. The order matters: adapters are
    /// ordinary parameters, and each linear takes its adapter when it is built.
    ///
    /// # Errors
    /// The weights do not fit the run, or no target module matches.
    pub fn load(finetune: &Finetune, models: &Models, sources: Sources<'_>, mesh: &Mesh, device: Device) -> Result<Self> {
        if device == Device::Cpu {
            choose_float32_products()?;
        }
        let table = models.resolve(&finetune.model)?;
        let mut specs = table.parameters(finetune.trainer.strategy.vision_placement);
        let lora = finetune.peft.as_ref().map(Peft::lora);
        let adapters = match lora {
            Some(lora) => lora_adapters(&specs, lora, "finetune.peft").map_err(EngineError::Run)?,
            None => Adapters::default(),
        };
        for (setting, pattern) in &adapters.unmatched {
            tracing::debug!("finetune.peft.{setting}: {pattern:?} matches nothing");
        }
        specs.extend(adapters.parameters.iter().cloned());
        let group = mesh.axis(Axis::Tensor).clone();
        let placement = Placement {
            tp_rank: group.rank(),
            tp: group.size(),
            kind: compute_kind(finetune.trainer.precision()),
            device,
        };
        let strategy = &finetune.trainer.strategy;
        let context_parallel = strategy.context_parallel_size > 1;
        if let Some(problem) = refuse_backend(strategy.attention_backend, device, placement.kind, context_parallel) {
            return Err(EngineError::Run(vec![problem]));
        }
        let stages = Stages::of(strategy, table.description.num_layers()).map_err(|uneven| {
            let path = format!("finetune.trainer.strategy.{}", uneven.setting);
            EngineError::Run(vec![Problem::error(path, uneven.message).help(uneven.help)])
        })?;
        let chunk_specs = stages.chunk_specs(mesh.axis(Axis::Pipeline).rank());
        let wanted = |spec: &ParamSpec| chunk_specs.iter().any(|chunk| chunk.holds(spec));
        // First, because it refuses hardware without FP8.
        let fp8 = Fp8Linears::of(finetune).map(|fp8| {
            let linears = specs.iter().filter(|spec| wanted(spec) && fp8.covers(spec));
            let names = linears.filter_map(|spec| Some(spec.lora.as_ref()?.linear.clone()));
            ScalingStates::new(fp8.settings, names, device)
        });
        let fp8 = fp8.transpose()?;
        let parameters = load_run_parameters(&table, &specs, &wanted, finetune, sources, placement)?;
        let trained: Vec<_> = specs.iter().filter(|spec| is_trainable(spec, finetune)).collect();
        let sequence_parallel = strategy.sequence_parallel && group.size() > 1;
        let region = TensorRegion::new(group, sequence_parallel);
        fill_row_norms(&parameters, &adapters, &region)?;
        let keys = CurrentKeys::default();
        let dropout = lora.map_or_else(AdapterDropout::default, |lora| AdapterDropout {
            probability: lora.dropout,
            position: lora.dropout_position,
            seed: finetune.trainer.seed,
        });
        let build = Build::new(&parameters, &adapters, region, strategy)
            .sharing(
                attention(mesh, strategy, &parameters),
                ImagePartition::new(mesh, strategy.vision_placement),
            )
            .dropping(keys.clone(), dropout)
            .in_fp8(fp8.as_ref());
        let numbers = (0..stages.chunks()).map(|chunk| stages.chunk_number(mesh.axis(Axis::Pipeline).rank(), chunk));
        let load_chunk = |(chunk, number): (&ChunkSpec, usize)| {
            let trained_in = |chunk: &ChunkSpec| trained.iter().any(|spec| chunk.holds(spec));
            let input_trained = (0..number).any(|before| trained_in(&stages.chunk_spec(before)));
            let own = parameters.trainable().enumerate();
            Ok(Chunk {
                model: models.build(&table, chunk, &build)?,
                head: chunk.last.then(|| head(&table, &parameters, &build, mesh)).transpose()?,
                trained: own.filter(|(_, own)| chunk.holds(&own.spec)).map(|(index, _)| index).collect(),
                input_trained,
                output_trained: input_trained || trained_in(chunk),
            })
        };
        let adapted = adapters.linears.keys().cloned().collect();
        let used = trained.iter().filter(|spec| spec.used);
        let used = used.map(|spec| (spec.name.clone(), spec.part == Part::Adapter)).collect();
        let chunks = chunk_specs.iter().zip(numbers).map(load_chunk).collect::<Result<_>>()?;
        let flops = ModelFlops::of(&table, &specs, &adapters, finetune);
        Ok(Self {
            last_hidden_states: LastHiddenStates::new(sequence_parallel, fp8.is_some(), parameters.effects()),
            flops,
            parameters,
            specs,
            chunks,
            stages,
            fp8,
            adapted,
            trained: used,
            keys,
        })
    }

    /// Runs `run` with the keys of a microbatch, whose last hidden states are read at `outputs`: adapters have dropout then.
    pub fn with_sample_keys<T>(&self, samples: Option<&Arc<SampleKeys>>, outputs: &OutputPositions, run: impl FnOnce() -> T) -> T {
        self.keys.of_samples(samples, outputs, run)
    }

    /// Returns the model and the head of a rank that holds all layers.
    ///
    /// # Errors
    /// This rank holds only some layers.
    pub fn whole(&self) -> Result<(&dyn ModelChunk, &Head)> {
        match self.chunks.as_slice() {
            [
                Chunk {
                    model, head: Some(head), ..
                },
            ] if self.stages.stages() == 1 => Ok((&**model, head)),
            _ => Err(EngineError::Bug("this rank holds only some layers".into())),
        }
    }
}

/// Creates the head on this rank's rows of the vocabulary.
fn head(table: &ModelTable, parameters: &Parameters, build: &Build<'_>, mesh: &Mesh) -> Result<Head> {
    let name = table.head_weight();
    let name = name.ok_or_else(|| EngineError::Bug("a model without a decoder has no head".into()))?;
    let weight = parameters.get(&name)?;
    let region = build.region();
    let (start, len) = match weight.spec.shard(region.group().rank(), region.size()) {
        Some(shard) => (shard.start, shard.len),
        None => (0, weight.spec.shape[0]),
    };
    Ok(Head::new(parameters.weight(&name)?, start, len, region)
        .always_backward(mesh.axis(Axis::Context).size() > 1)
        .counted(parameters.effects()))
}

/// Returns the attention implementation.
fn attention(mesh: &Mesh, strategy: &MegatronStrategy, parameters: &Parameters) -> Arc<dyn CausalAttention> {
    let core = AttentionCore::new(strategy.attention_backend, parameters.effects());
    let attention: Arc<dyn CausalAttention> = match mesh.axis(Axis::Context) {
        group if group.size() == 1 => Arc::new(LocalAttention(core)),
        group => Arc::new(ContextAttention::new(group.clone(), strategy.cp_comm_type).counted(core)),
    };
    if strategy.recomputes(RecomputeModule::CoreAttn) {
        Arc::new(RecomputedAttention(attention))
    } else {
        attention
    }
}
