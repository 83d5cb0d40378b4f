//! Parallelism strategy.

use crate::attention_backend::AttentionBackend;
use crate::recompute::{RecomputeGranularity, RecomputeMethod, RecomputeModule};
use crate::validate::{Problem, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parallelism of the model: NeMo's `nl.MegatronStrategy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MegatronStrategy {
    /// Number of tensor-parallel ranks: each weight matrix is split over them.
    pub tensor_model_parallel_size: u32,
    /// Number of pipeline-parallel ranks: the layers are split over them.
    pub pipeline_model_parallel_size: u32,
    /// Number of model chunks per pipeline rank; `null`: 1.
    pub virtual_pipeline_model_parallel_size: Option<u32>,
    /// Number of language model layers on the first pipeline rank, besides the vision encoder; with 0 that rank holds the
    /// vision encoder alone, `null` splits the layers evenly.
    pub num_layers_in_first_pipeline_stage: Option<u32>,
    /// Number of language model layers on the last pipeline rank, besides the head; `null` splits the layers evenly.
    pub num_layers_in_last_pipeline_stage: Option<u32>,
    /// Number of context-parallel ranks: each sequence is split over them.
    pub context_parallel_size: u32,
    /// Exchange of keys and values between context-parallel ranks.
    pub cp_comm_type: CpCommType,
    /// Splits norms and residuals along the sequence over the tensor-parallel ranks.
    pub sequence_parallel: bool,
    /// Placement of the vision encoder and the projector on the ranks.
    pub vision_placement: VisionPlacement,
    /// Attention kernel of the language model and of the vision encoder.
    pub attention_backend: AttentionBackend,
    /// Activation recomputation in the backward pass; `null` saves all activations.
    pub recompute_granularity: Option<RecomputeGranularity>,
    /// Layers to recompute with `full`; `null`: `uniform`.
    pub recompute_method: Option<RecomputeMethod>,
    /// Number of layers per recomputed group (`uniform`) or in total (`block`); `null`: 1.
    pub recompute_num_layers: Option<u32>,
    /// Submodules to recompute with `selective`; `null`: `[core_attn]`.
    pub recompute_modules: Option<Vec<RecomputeModule>>,
    /// Data parallelism: gradients, master weights and moments.
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
            attention_backend: AttentionBackend::Auto,
            recompute_granularity: None,
            recompute_method: None,
            recompute_num_layers: None,
            recompute_modules: None,
            ddp: DistributedDataParallelConfig::default(),
        }
    }
}

impl MegatronStrategy {
    /// Sets the layout of one rank that holds the whole model.
    pub fn set_one_rank(&mut self) {
        (self.tensor_model_parallel_size, self.context_parallel_size) = (1, 1);
        (self.pipeline_model_parallel_size, self.virtual_pipeline_model_parallel_size) = (1, None);
        (self.num_layers_in_first_pipeline_stage, self.num_layers_in_last_pipeline_stage) = (None, None);
        self.sequence_parallel = false;
    }

    /// Returns the number of ranks that hold one copy of the model; at most `u64::MAX`.
    pub fn model_ranks(&self) -> u64 {
        let tensor_and_context = u64::from(self.tensor_model_parallel_size) * u64::from(self.context_parallel_size);
        tensor_and_context.saturating_mul(self.pipeline_model_parallel_size.into())
    }

    /// Returns the number that row lengths are rounded up to a multiple of, so that every rank gets an equal share: the
    /// context axis splits each row into two chunks per rank.
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

    /// Returns the number of model chunks per pipeline rank.
    pub fn chunks(&self) -> u32 {
        self.virtual_pipeline_model_parallel_size.unwrap_or(1)
    }

    /// Returns true if this submodule of each language model layer is recomputed on its own.
    pub fn recomputes(&self, module: RecomputeModule) -> bool {
        let modules = self.recompute_modules.as_deref().unwrap_or(&[RecomputeModule::CoreAttn]);
        self.recompute_granularity == Some(RecomputeGranularity::Selective) && modules.contains(&module)
    }
}

/// Exchange of keys and values between context-parallel ranks: Megatron's `cp_comm_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpCommType {
    /// Ring exchange, overlapped with computation (arXiv:2310.01889).
    P2p,
    /// All-gather before the attention.
    AllGather,
}

/// Placement of the vision encoder and the projector on the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisionPlacement {
    /// Images are split over the ranks that train on the same samples, and features are exchanged. Each rank holds the
    /// whole encoder.
    Shared,
    /// Each rank encodes all images of its samples with the whole encoder, as NeMo does with Hugging Face's.
    Duplicated,
    /// Heads and MLP widths are split over the tensor-parallel ranks, as NeMo does with Megatron's `CLIPViTModel` and
    /// `mcore_mlp`. Images are split over the context-parallel ranks.
    Cut,
}

/// Megatron's `DistributedDataParallelConfig`, with the values that NeMo's `MegatronCommOverlapCallback` sets. It has no
/// effect with one data-parallel rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistributedDataParallelConfig {
    /// Each rank stores and updates only its shard of master weights and moments (ZeRO-1, arXiv:1910.02054).
    pub use_distributed_optimizer: bool,
    /// Overlaps the gradient reduction with the backward pass.
    pub overlap_grad_reduce: bool,
    /// With the distributed optimizer: overlaps the parameter gather with the next forward pass.
    pub overlap_param_gather: bool,
    /// Maximum number of values per bucket, unless one parameter has more.
    pub bucket_size: u64,
}

impl Default for DistributedDataParallelConfig {
    fn default() -> Self {
        Self {
            use_distributed_optimizer: true,
            overlap_grad_reduce: true,
            overlap_param_gather: true,
            bucket_size: 128 << 20,
        }
    }
}

/// Appends the problems of `strategy` by itself.
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
            "sequence parallelism has no effect without tensor parallelism; it is disabled",
        ));
    }
    let ends = [
        ("num_layers_in_first_pipeline_stage", strategy.num_layers_in_first_pipeline_stage),
        ("num_layers_in_last_pipeline_stage", strategy.num_layers_in_last_pipeline_stage),
    ];
    for (name, _) in ends.into_iter().filter(|(_, layers)| layers.is_some()) {
        if strategy.pipeline_model_parallel_size == 1 {
            let message = "has no effect without pipeline parallelism: one pipeline rank holds all layers";
            problems.push(Problem::warning(format!("{path}.{name}"), message));
        }
    }
    if strategy.vision_placement == VisionPlacement::Cut && strategy.tensor_model_parallel_size == 1 {
        let message = "`cut` has no effect without tensor parallelism: one rank holds the whole vision encoder";
        problems.push(Problem::warning(format!("{path}.vision_placement"), message));
    }
}

/// Appends the problems of the recompute settings.
fn validate_recompute(path: &str, strategy: &MegatronStrategy, problems: &mut Vec<Problem>) {
    let num_layers = strategy.recompute_num_layers.unwrap_or(1);
    nonzero(path, problems, &[("recompute_num_layers", num_layers.into())]);
    let granularity = strategy.recompute_granularity;
    let mut ineffective = |name: &str, wants: &str| {
        problems.push(
            Problem::warning(
                format!("{path}.{name}"),
                format!("has no effect without `recompute_granularity: {wants}`"),
            )
            .help(format!("set {path}.recompute_granularity={wants}, or remove it")),
        );
    };
    if granularity != Some(RecomputeGranularity::Full) {
        if strategy.recompute_method.is_some() {
            ineffective("recompute_method", "full");
        }
        if strategy.recompute_num_layers.is_some() {
            ineffective("recompute_num_layers", "full");
        }
    }
    match &strategy.recompute_modules {
        Some(_) if granularity != Some(RecomputeGranularity::Selective) => ineffective("recompute_modules", "selective"),
        Some(modules) if modules.is_empty() => problems.push(
            Problem::error(format!("{path}.recompute_modules"), "names no module to recompute")
                .help("set core_attn, mlp or both, or remove it for [core_attn]"),
        ),
        _ => {}
    }
}

/// Appends an error if the ranks do not form whole copies of the model.
pub(crate) fn validate_ranks(path: &str, strategy: &MegatronStrategy, (nodes, devices): (u32, u32), problems: &mut Vec<Problem>) {
    let (model_ranks, ranks) = (strategy.model_ranks(), u64::from(nodes) * u64::from(devices));
    if model_ranks > 0 && !ranks.is_multiple_of(model_ranks) {
        let problem = Problem::error(
            path,
            format!(
                "{ranks} ranks ({nodes} nodes x {devices} devices) are not a multiple of tensor x context x pipeline = {} x {} x {} = \
                 {model_ranks}",
                strategy.tensor_model_parallel_size, strategy.context_parallel_size, strategy.pipeline_model_parallel_size,
            ),
        );
        problems.push(problem.help(match nearest_devices(model_ranks, nodes, devices) {
            Some(devices) => format!("use a multiple of {model_ranks} ranks, the nearest: {devices} devices; or smaller parallel sizes"),
            None => "use smaller parallel sizes".to_owned(),
        }));
    }
}

/// Returns the valid number of devices per node nearest to `devices`, the smaller of two: it forms whole copies of the model.
fn nearest_devices(model_ranks: u64, nodes: u32, devices: u32) -> Option<u32> {
    // The smallest number of devices for which `nodes` nodes have a multiple of `model_ranks`.
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
