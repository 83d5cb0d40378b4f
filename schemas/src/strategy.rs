//! How a model is cut over the ranks.

use crate::parallel::ParallelSizes;
use crate::recompute::{RecomputeGranularity, RecomputeMethod, RecomputeModule, validate_recompute};
use crate::validate::{Problem, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the model is cut over the ranks: NeMo's `nl.MegatronStrategy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MegatronStrategy {
    /// Ranks that share each matrix.
    pub tensor_model_parallel_size: u32,
    /// Ranks that share the layers.
    pub pipeline_model_parallel_size: u32,
    /// Chunks of layers on each pipeline rank.
    pub virtual_pipeline_model_parallel_size: Option<u32>,
    /// Layers of the language model on the first pipeline rank, beside the vision encoder; 0 leaves that rank to the
    /// vision encoder alone, `null` shares the layers out evenly.
    pub num_layers_in_first_pipeline_stage: Option<u32>,
    /// Layers of the language model on the last pipeline rank, beside the head; `null` shares them out evenly.
    pub num_layers_in_last_pipeline_stage: Option<u32>,
    /// Ranks that share each sequence.
    pub context_parallel_size: u32,
    /// How the ranks of a sequence exchange keys and values.
    pub cp_comm_type: CpCommType,
    /// Cuts norms and residuals along the sequence over the tensor-parallel ranks.
    pub sequence_parallel: bool,
    /// Which ranks encode pictures, and with how much of the vision encoder and the projector.
    pub vision_placement: VisionPlacement,
    /// How much is computed again in the backward pass instead of being kept; `null` keeps everything.
    pub recompute_granularity: Option<RecomputeGranularity>,
    /// Which layers are computed again with `full`; `null`: `uniform`.
    pub recompute_method: Option<RecomputeMethod>,
    /// How many layers are computed again at a time (`uniform`), or at all (`block`); `null`: 1.
    pub recompute_num_layers: Option<u32>,
    /// Which parts of each layer are computed again with `selective`; `null`: `[core_attn]`.
    pub recompute_modules: Option<Vec<RecomputeModule>>,
    /// How gradients, master weights and moments are shared over the ranks that hold the same parameters.
    pub ddp: DistributedDataParallelConfig,
}

impl Default for MegatronStrategy {
    fn default() -> Self {
        Self {
            tensor_model_parallel_size: 1,
            pipeline_model_parallel_size: 1,
            virtual_pipeline_model_parallel_size: None,
            num_layers_in_first_pipeline_stage: None,
            num_layers_in_last_pipeline_stage: None,
            context_parallel_size: 1,
            cp_comm_type: CpCommType::P2p,
            sequence_parallel: false,
            vision_placement: VisionPlacement::Shared,
            recompute_granularity: None,
            recompute_method: None,
            recompute_num_layers: None,
            recompute_modules: None,
            ddp: DistributedDataParallelConfig::default(),
        }
    }
}

impl MegatronStrategy {
    /// What the length of a batch's rows is rounded up to, so that every rank gets an equal part: the context axis
    /// cuts each row into two chunks per rank.
    pub fn sequence_multiple(&self) -> usize {
        let tensor = if self.sequence_parallel {
            self.tensor_model_parallel_size
        } else {
            1
        };
        let context = match self.context_parallel_size {
            0 | 1 => 1,
            ranks => 2 * ranks as usize,
        };
        context.saturating_mul(tensor as usize)
    }

    /// Chunks of layers on each pipeline rank.
    pub fn chunks(&self) -> u32 {
        self.virtual_pipeline_model_parallel_size.unwrap_or(1)
    }

    /// Whether this part of each layer of the language model is computed again by itself.
    pub fn recomputes(&self, module: RecomputeModule) -> bool {
        let modules = self.recompute_modules.as_deref().unwrap_or(&[RecomputeModule::CoreAttn]);
        self.recompute_granularity == Some(RecomputeGranularity::Selective) && modules.contains(&module)
    }
}

/// How the ranks of a sequence exchange keys and values: Megatron's `cp_comm_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpCommType {
    /// Round a ring, while each rank computes with what it has (arXiv:2310.01889).
    P2p,
    /// All of them to every rank before the attention.
    AllGather,
}

/// Which ranks encode pictures, and with how much of the vision encoder and the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisionPlacement {
    /// The ranks that train on the same samples share the pictures out and exchange the features; each holds the whole
    /// encoder.
    Shared,
    /// Each rank encodes every picture of its samples with the whole encoder, as NeMo does with Hugging Face's.
    Duplicated,
    /// Each tensor-parallel rank holds its share of the heads and of the width of every MLP, as NeMo does with
    /// Megatron's `CLIPViTModel` and `mcore_mlp`; context-parallel ranks share the pictures out.
    Cut,
}

/// Megatron's `DistributedDataParallelConfig`, under NeMo's values. On one data-parallel rank it changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistributedDataParallelConfig {
    /// Each rank keeps and updates its share of master weights and moments only (ZeRO-1, arXiv:1910.02054).
    pub use_distributed_optimizer: bool,
    /// Gradients are reduced while the backward pass goes on.
    pub overlap_grad_reduce: bool,
    /// With the distributed optimizer, updated parameters are gathered while the next forward pass goes on.
    pub overlap_param_gather: bool,
    /// Values that are reduced at once, unless one parameter has more.
    pub bucket_size: u64,
}

impl Default for DistributedDataParallelConfig {
    fn default() -> Self {
        Self {
            use_distributed_optimizer: true,
            overlap_grad_reduce: true,
            overlap_param_gather: true,
            bucket_size: 32 << 20,
        }
    }
}

/// What is wrong with `strategy` by itself.
pub(crate) fn validate_strategy(path: &str, strategy: &MegatronStrategy, problems: &mut Vec<Problem>) {
    nonzero(
        path,
        problems,
        &[
            ("tensor_model_parallel_size", strategy.tensor_model_parallel_size.into()),
            ("pipeline_model_parallel_size", strategy.pipeline_model_parallel_size.into()),
            ("context_parallel_size", strategy.context_parallel_size.into()),
            ("virtual_pipeline_model_parallel_size", strategy.chunks().into()),
            (
                "num_layers_in_last_pipeline_stage",
                strategy.num_layers_in_last_pipeline_stage.unwrap_or(1).into(),
            ),
        ],
    );
    validate_recompute(path, strategy, problems);
    nonzero(&format!("{path}.ddp"), problems, &[("bucket_size", strategy.ddp.bucket_size)]);
    if strategy.sequence_parallel && strategy.tensor_model_parallel_size == 1 {
        problems.push(Problem::warning(
            format!("{path}.sequence_parallel"),
            "sequence parallelism does nothing without tensor parallelism; it is switched off",
        ));
    }
    let ends = [
        ("num_layers_in_first_pipeline_stage", strategy.num_layers_in_first_pipeline_stage),
        ("num_layers_in_last_pipeline_stage", strategy.num_layers_in_last_pipeline_stage),
    ];
    for (name, _) in ends.into_iter().filter(|(_, layers)| layers.is_some()) {
        if strategy.pipeline_model_parallel_size == 1 {
            let message = "does nothing without pipeline parallelism: one pipeline rank holds all layers";
            problems.push(Problem::warning(format!("{path}.{name}"), message));
        }
    }
    if strategy.vision_placement == VisionPlacement::Cut && strategy.tensor_model_parallel_size == 1 {
        let message = "`cut` does nothing without tensor parallelism: there is nobody to cut the vision encoder for";
        problems.push(Problem::warning(format!("{path}.vision_placement"), message));
    }
}

/// Whether `ranks` ranks make up whole copies of the model.
pub(crate) fn validate_ranks(path: &str, strategy: &MegatronStrategy, (nodes, devices): (u32, u32), problems: &mut Vec<Problem>) {
    let (model_ranks, ranks) = (ParallelSizes::model_ranks(strategy), u64::from(nodes) * u64::from(devices));
    if model_ranks > 0 && !ranks.is_multiple_of(model_ranks) {
        let problem = Problem::error(
            path,
            format!(
                "{ranks} ranks ({nodes} nodes x {devices} devices) are not a multiple of tensor x context x pipeline = {} x {} x {} = {model_ranks}",
                strategy.tensor_model_parallel_size, strategy.context_parallel_size, strategy.pipeline_model_parallel_size,
            ),
        );
        problems.push(problem.help(match nearest_devices(model_ranks, nodes, devices) {
            Some(devices) => format!("use a multiple of {model_ranks} ranks, the nearest: {devices} devices; or smaller parallel sizes"),
            None => "use smaller parallel sizes".to_owned(),
        }));
    }
}

/// The number of devices of each node nearest to `devices`, the smaller of two, that makes up whole copies of the model.
fn nearest_devices(model_ranks: u64, nodes: u32, devices: u32) -> Option<u32> {
    // The fewest of which `nodes` nodes have a multiple of `model_ranks`.
    let mut gcd = (model_ranks, u64::from(nodes));
    while gcd.1 > 0 {
        gcd = (gcd.1, gcd.0 % gcd.1);
    }
    let (unit, devices) = (model_ranks / gcd.0, u64::from(devices));
    let below = devices / unit * unit;
    let choices = [below, below.saturating_add(unit)].into_iter().filter(|choice| *choice > 0);
    let nearest = choices.min_by_key(|choice| choice.abs_diff(devices))?;
    let numbered = nearest.checked_mul(nodes.into()).is_some_and(|ranks| u32::try_from(ranks).is_ok());
    u32::try_from(nearest).ok().filter(|_| numbered && nodes > 0)
}
