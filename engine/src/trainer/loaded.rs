//! A model on one rank: its parameters, and the modules that hold them.

use crate::checkpoint::{Placement, Sources, load_parameters};
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::loss::Head;
use crate::model::Llava;
use crate::nn::{Arrival, Build, CausalAttention, LocalAttention, RecomputedAttention};
use crate::parallel::{ContextAttention, PictureShares, TensorRegion};
use crate::parameters::Parameters;
use crate::precision::compute_kind;
use neva_layout::{Adapters, ParamSpec, Section, Stages, is_trainable, llava_parameters, lora_adapters};
use neva_schemas::{Finetune, MegatronStrategy, Peft, Problem, RecomputeModule};
use std::sync::Arc;
use tch::Device;

/// What one rank holds of a model: its parameters, and the sections that they make up.
#[derive(Debug)]
pub struct LoadedModel {
    /// Every parameter of this rank.
    pub parameters: Parameters,
    /// Every parameter of the whole model, on whichever rank it is.
    pub specs: Vec<ParamSpec>,
    /// The sections of this pipeline rank, by chunk.
    pub chunks: Vec<Chunk>,
    /// How the layers are shared out.
    pub stages: Stages,
    /// Where the sections wait for their weights.
    pub arrival: Arrival,
}

/// One section of a model.
#[derive(Debug)]
pub struct Chunk {
    /// Everything up to the section's hidden state.
    pub model: Llava,
    /// From hidden states to logits and loss, where the model ends.
    pub head: Option<Head>,
    /// Which of the rank's trained parameters it takes, as numbers among them.
    pub trained: Vec<usize>,
    /// Whether the run trains anything in front of it.
    pub input_trained: bool,
    /// Whether the run trains anything up to its end.
    pub output_trained: bool,
}

impl LoadedModel {
    /// Loads or makes all parameters of this rank, and puts its sections together. The order matters: adapters
    /// are parameters like others, and the linears take theirs up when they are built.
    ///
    /// # Errors
    /// The weights do not fit the run, or a target module names nothing.
    pub fn load(finetune: &Finetune, sources: Sources<'_>, mesh: &Mesh, device: Device) -> Result<Self> {
        let config = finetune.model.llava();
        let mut specs = llava_parameters(config, finetune.trainer.strategy.vision_placement);
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
        let placement = Placement {
            tp_rank: group.rank(),
            tp: group.size(),
            kind: compute_kind(finetune.trainer.precision()),
            device,
        };
        let strategy = &finetune.trainer.strategy;
        let stages = Stages::of(strategy, config.text_config.num_hidden_layers).map_err(|uneven| {
            let path = format!("finetune.trainer.strategy.{}", uneven.setting);
            EngineError::Run(vec![Problem::error(path, uneven.message).help(uneven.help)])
        })?;
        let tied = config.text_config.tie_word_embeddings;
        let sections = stages.sections(mesh.axis(Axis::Pipeline).rank());
        let wanted = |spec: &ParamSpec| sections.iter().any(|section| section.holds(&spec.name, tied));
        let parameters = load_parameters(&specs, &wanted, finetune, sources, placement)?;
        let trained: Vec<_> = specs.iter().filter(|spec| is_trainable(spec, finetune)).collect();
        let scale = lora.map_or(1.0, |lora| lora.alpha / lora.dim as f64);
        let region = TensorRegion::new(group, strategy.sequence_parallel);
        let build = Build::new(&parameters, &adapters, scale, region, strategy)
            .sharing(attention(mesh, strategy), PictureShares::new(mesh, strategy.vision_placement));
        let numbers = (0..stages.chunks()).map(|chunk| stages.number(mesh.axis(Axis::Pipeline).rank(), chunk));
        let chunk = |(section, number): (&Section, usize)| {
            let trained_in = |section: &Section| trained.iter().any(|spec| section.holds(&spec.name, tied));
            let input_trained = (0..number).any(|before| trained_in(&stages.section(before)));
            let own = parameters.trainable().enumerate();
            Ok(Chunk {
                model: Llava::new(config, section, &build)?,
                head: section.last.then(|| head(&parameters, &build, tied, mesh)).transpose()?,
                trained: own
                    .filter(|(_, own)| section.holds(&own.spec.name, tied))
                    .map(|(index, _)| index)
                    .collect(),
                input_trained,
                output_trained: input_trained || trained_in(section),
            })
        };
        let arrival = build.arrival();
        let chunks = sections.iter().zip(numbers).map(chunk).collect::<Result<_>>()?;
        Ok(Self {
            parameters,
            specs,
            chunks,
            stages,
            arrival,
        })
    }

    /// Model and head of a rank that holds all layers.
    ///
    /// # Errors
    /// This rank holds a part of them.
    pub fn whole(&self) -> Result<(&Llava, &Head)> {
        match self.chunks.as_slice() {
            [
                Chunk {
                    model, head: Some(head), ..
                },
            ] if self.stages.stages() == 1 => Ok((model, head)),
            _ => Err(EngineError::Bug("this rank holds a part of the layers".into())),
        }
    }
}

/// The head on the rows of the vocabulary that this rank holds.
fn head(parameters: &Parameters, build: &Build<'_>, tied: bool, mesh: &Mesh) -> Result<Head> {
    let weight = parameters.get(if tied {
        "model.language_model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    })?;
    let region = build.region();
    let (start, len) = match weight.spec.shard(region.group().rank(), region.size()) {
        Some(shard) => (shard.start, shard.len),
        None => (0, weight.spec.shape[0]),
    };
    Ok(Head::new(weight.tensor.shallow_clone(), start, len, region).awaited(mesh.axis(Axis::Context).size() > 1))
}

/// How queries find the keys of their sequences.
fn attention(mesh: &Mesh, strategy: &MegatronStrategy) -> Arc<dyn CausalAttention> {
    let attention: Arc<dyn CausalAttention> = match mesh.axis(Axis::Context) {
        group if group.size() == 1 => Arc::new(LocalAttention),
        group => Arc::new(ContextAttention::new(group.clone(), strategy.cp_comm_type)),
    };
    if strategy.recomputes(RecomputeModule::CoreAttn) {
        Arc::new(RecomputedAttention(attention))
    } else {
        attention
    }
}
