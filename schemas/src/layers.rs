//! Split of a model's layers among pipeline ranks: validates it, and suggests the nearest valid one.

use crate::strategy::MegatronStrategy;
use crate::trainer::TrainerConfig;
use crate::validate::Problem;

/// Error of a layer split that is not even, with the nearest valid one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnevenLayers {
    /// Name of the invalid setting.
    pub setting: &'static str,
    /// Error message.
    pub message: String,
    /// Advice: the nearest valid setting.
    pub help: String,
}

const PIPELINE: &str = "pipeline_model_parallel_size";
const VIRTUAL_PIPELINE: &str = "virtual_pipeline_model_parallel_size";
const ENDS: [&str; 2] = ["num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"];

/// Search radius for the nearest valid setting. It exceeds the layers of any model, and bounds the time if a file asks
/// for billions.
const SEARCH_RADIUS: usize = 256;

/// A number of layers and their split among pipeline stages.
#[derive(Debug, Clone, Copy)]
pub struct LayerSplit {
    /// Pipeline ranks.
    pub stages: usize,
    /// Model chunks of each stage.
    pub chunks: usize,
    /// Layers of the first and the last stage, if they differ from the others.
    ends: [Option<usize>; 2],
    layers: usize,
    /// Number that a suggested number of stages must divide, if known: the ranks left for the data and pipeline axes.
    ranks: Option<u64>,
}

/// A violated rule.
#[derive(Debug, Clone, Copy)]
enum Violation {
    /// One stage cannot be interleaved.
    ChunksOfOneStage,
    /// The layers of the first (0) or the last stage (1) are not divisible by its chunks.
    End(usize),
    /// The first and the last stage have more layers than the model.
    TooMany,
    /// No stage holds the remaining layers.
    Unassigned,
    /// The remaining layers are not divisible among the stages between the first and the last.
    Between { stages: usize, rest: usize },
}

impl LayerSplit {
    /// Returns the split that `strategy` asks for, of a model with `layers` layers.
    pub fn of(strategy: &MegatronStrategy, layers: usize) -> Self {
        let ends = [
            strategy.num_layers_in_first_pipeline_stage,
            strategy.num_layers_in_last_pipeline_stage,
        ];
        Self {
            stages: strategy.pipeline_model_parallel_size.max(1) as usize,
            chunks: strategy.chunks().max(1) as usize,
            ends: ends.map(|layers| layers.map(|layers| layers as usize)),
            layers,
            ranks: None,
        }
    }

    /// Returns the layers of each stage between the first and the last, or of the only stage. Takes constant time.
    ///
    /// # Errors
    /// The layers cannot be divided evenly.
    pub fn each(&self) -> Result<usize, UnevenLayers> {
        self.rules().map_err(|violation| self.uneven(violation))
    }

    fn rules(&self) -> Result<usize, Violation> {
        let Self {
            stages, chunks, layers, ..
        } = *self;
        if stages == 1 {
            return if chunks > 1 { Err(Violation::ChunksOfOneStage) } else { Ok(layers) };
        }
        for (end, own) in self.ends.iter().enumerate().filter_map(|(end, own)| Some((end, (*own)?))) {
            if own % chunks != 0 || (own == 0 && chunks > 1) {
                return Err(Violation::End(end));
            }
        }
        let between = stages - self.ends.iter().flatten().count();
        let rest = layers.checked_sub(self.in_ends()).ok_or(Violation::TooMany)?;
        match between {
            0 if rest > 0 => Err(Violation::Unassigned),
            0 => Ok(0),
            _ if rest == 0 || rest % between != 0 || !(rest / between).is_multiple_of(chunks) => {
                Err(Violation::Between { stages: between, rest })
            }
            _ => Ok(rest / between),
        }
    }

    /// Returns the layers of a stage, if each stage between the first and the last has `each`.
    pub fn of_stage(&self, stage: usize, each: usize) -> usize {
        match (stage, self.ends) {
            _ if self.stages == 1 => each,
            (0, [Some(own), _]) => own,
            (stage, [_, Some(own)]) if stage + 1 == self.stages => own,
            _ => each,
        }
    }

    fn in_ends(&self) -> usize {
        self.ends.iter().flatten().sum()
    }

    fn fits(&self) -> bool {
        self.rules().is_ok() && self.ranks.is_none_or(|ranks| ranks.is_multiple_of(self.stages as u64))
    }

    /// Returns the error of a violated rule.
    fn uneven(&self, violation: Violation) -> UnevenLayers {
        let Self { chunks, layers, .. } = *self;
        let ends = self.in_ends();
        let (setting, message, help) = match violation {
            Violation::ChunksOfOneStage => (
                VIRTUAL_PIPELINE,
                format!("{chunks} chunks on each pipeline rank, but there is one pipeline rank"),
                self.other_than_chunks(),
            ),
            Violation::End(end) => (
                ENDS[end],
                format!(
                    "`{}` is {}, which cannot be divided evenly among {chunks} chunks",
                    ENDS[end],
                    self.ends[end].unwrap_or(0)
                ),
                self.other_end(end),
            ),
            Violation::TooMany => {
                let end = usize::from(self.ends[0].is_none());
                let message = format!("the first and the last pipeline rank take {ends} layers, but the model has {layers}");
                (ENDS[end], message, self.other_end(end))
            }
            Violation::Unassigned => {
                let message = format!("the two pipeline ranks take {ends} layers, but the model has {layers}");
                (ENDS[0], message, self.other_end(0))
            }
            Violation::Between { stages: between, rest } => {
                let of = if ends > 0 {
                    format!("{rest} of {layers}")
                } else {
                    rest.to_string()
                };
                let cannot = format!("{of} layers cannot be divided evenly among {between} pipeline ranks");
                let (setting, message) = match chunks {
                    1 => (PIPELINE, cannot),
                    _ => (VIRTUAL_PIPELINE, format!("{cannot} of {chunks} chunks each")),
                };
                (setting, message, self.other_pipeline())
            }
        };
        UnevenLayers { setting, message, help }
    }

    /// Suggests for one stage with several chunks: one chunk, or the fewest stages that can have several.
    fn other_than_chunks(&self) -> String {
        let stages = (2..=self.layers.min(SEARCH_RADIUS)).find(|stages| Self { stages: *stages, ..*self }.fits());
        match stages {
            Some(stages) => format!("set {PIPELINE} to {stages}, or {VIRTUAL_PIPELINE} to null"),
            None => format!("set {VIRTUAL_PIPELINE} to null"),
        }
    }

    /// Suggests the nearest number of layers for the first or the last stage, the smaller of two; if none fits, another
    /// pipeline.
    fn other_end(&self, end: usize) -> String {
        let with = |own: Option<usize>| {
            let mut other = *self;
            other.ends[end] = own;
            other
        };
        // No stage has more layers than the model.
        let from = self.ends[end].unwrap_or(0).min(self.layers);
        let near = |distance: usize| [from.checked_sub(distance), from.checked_add(distance)].into_iter().flatten();
        // The last stage has the head and at least one layer.
        let nearest = (0..=SEARCH_RADIUS)
            .flat_map(near)
            .find(|own| *own >= end && with(Some(*own)).fits());
        match nearest {
            Some(nearest) => format!("nearest that fits: {nearest}"),
            None if with(None).fits() => "set it to null".to_owned(),
            None => self.other_pipeline(),
        }
    }

    /// Suggests the nearest number of stages and chunks.
    fn other_pipeline(&self) -> String {
        let Self { layers, .. } = *self;
        // The additional stage may hold the vision encoder alone.
        let (stages, chunks) = (self.stages.min(layers.saturating_add(1)), self.chunks.min(layers.max(1)));
        let around = |distance: usize| {
            let (least, most) = (stages.saturating_sub(distance).max(1), stages.saturating_add(distance));
            (least..=most).flat_map(move |other| {
                let rest = distance - other.abs_diff(stages);
                let both = [chunks.checked_sub(rest), (rest > 0).then(|| chunks.saturating_add(rest))];
                both.into_iter()
                    .flatten()
                    .filter(|chunks| *chunks > 0)
                    .map(move |chunks| (other, chunks))
            })
        };
        let fits = |(stages, chunks): &(usize, usize)| {
            Self {
                stages: *stages,
                chunks: *chunks,
                ..*self
            }
            .fits()
        };
        // One rank holds any number of layers.
        let (stages, chunks) = (0..=SEARCH_RADIUS).flat_map(around).find(fits).unwrap_or((1, 1));
        let ranks = if stages == 1 { "rank" } else { "ranks" };
        let each = match (chunks, self.chunks) {
            (1, 1) => String::new(),
            (1, _) => format!(", and {VIRTUAL_PIPELINE} null"),
            _ => format!(" of {chunks} chunks each"),
        };
        let ends = if self.ends == [None; 2] && self.chunks == 1 {
            format!("; or set the layers of the first and the last stage: {}, {}", ENDS[0], ENDS[1])
        } else {
            String::new()
        };
        format!("nearest that divides {layers} layers: {stages} pipeline {ranks}{each}{ends}")
    }
}

/// Adds a problem if the layers cannot be divided among the pipeline ranks as the run asks.
pub(crate) fn validate_layers(layers: usize, trainer: &TrainerConfig, path: &str, problems: &mut Vec<Problem>) {
    let strategy = &trainer.strategy;
    let shared = u64::from(strategy.tensor_model_parallel_size) * u64::from(strategy.context_parallel_size);
    let ranks = trainer.world_size();
    let split = LayerSplit {
        ranks: (shared > 0 && ranks > 0 && ranks.is_multiple_of(shared)).then(|| ranks / shared),
        ..LayerSplit::of(strategy, layers)
    };
    if let Err(uneven) = split.each() {
        let path = format!("{path}.trainer.strategy.{}", uneven.setting);
        problems.push(Problem::error(path, uneven.message).help(uneven.help));
    }
}
