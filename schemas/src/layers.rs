//! How many layers each pipeline rank holds; why what is asked for cannot be had, and the nearest that can.

use crate::finetune::Finetune;
use crate::strategy::MegatronStrategy;
use crate::validate::Problem;

/// Why layers cannot be shared out, and what could be asked for instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uneven {
    /// Name of the setting at fault.
    pub setting: &'static str,
    /// What is wrong.
    pub message: String,
    /// The nearest choice that works.
    pub help: String,
}

const PIPELINE: &str = "pipeline_model_parallel_size";
const VIRTUAL_PIPELINE: &str = "virtual_pipeline_model_parallel_size";
const ENDS: [&str; 2] = ["num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"];

/// How far from what is asked for another choice is looked for: further than any model has layers, and done in
/// milliseconds where a file asks for billions.
const FAR: usize = 256;

/// A number of layers, and how they are to be shared out.
#[derive(Debug, Clone, Copy)]
pub struct LayerShares {
    /// Pipeline ranks.
    pub stages: usize,
    /// Runs of layers of each.
    pub chunks: usize,
    /// Layers of the first and the last stage, where they are not those of the others.
    ends: [Option<usize>; 2],
    layers: usize,
    /// What the stages of another choice must divide: the ranks that are left for the pipeline, where that is known.
    ranks: Option<u64>,
}

/// A rule that is broken.
#[derive(Debug, Clone, Copy)]
enum Misfit {
    /// One stage cannot be interleaved.
    ChunksOfOneStage,
    /// The chunks of the first (0) or the last stage (1) would not be alike.
    End(usize),
    /// The ends take more layers than there are.
    TooMany,
    /// There is nobody for the rest.
    Left,
    /// The stages between the ends would not be alike.
    Between { stages: usize, rest: usize },
}

impl LayerShares {
    /// What `strategy` asks for, of a model of `layers` layers.
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

    /// Layers of each stage between the ends; of the only one. Takes no time, however many layers there are.
    ///
    /// # Errors
    /// They cannot be shared out so.
    pub fn each(&self) -> Result<usize, Uneven> {
        self.rules().map_err(|misfit| self.uneven(misfit))
    }

    fn rules(&self) -> Result<usize, Misfit> {
        let Self {
            stages, chunks, layers, ..
        } = *self;
        if stages == 1 {
            return if chunks > 1 { Err(Misfit::ChunksOfOneStage) } else { Ok(layers) };
        }
        for (end, own) in self.ends.iter().enumerate().filter_map(|(end, own)| Some((end, (*own)?))) {
            if own % chunks != 0 || (own == 0 && chunks > 1) {
                return Err(Misfit::End(end));
            }
        }
        let between = stages - self.ends.iter().flatten().count();
        let rest = layers.checked_sub(self.in_ends()).ok_or(Misfit::TooMany)?;
        match between {
            0 if rest > 0 => Err(Misfit::Left),
            0 => Ok(0),
            _ if rest == 0 || rest % between != 0 || !(rest / between).is_multiple_of(chunks) => {
                Err(Misfit::Between { stages: between, rest })
            }
            _ => Ok(rest / between),
        }
    }

    /// Layers of a stage, where each between the ends has `each`.
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

    /// A broken rule in words.
    fn uneven(&self, misfit: Misfit) -> Uneven {
        let Self { chunks, layers, .. } = *self;
        let ends = self.in_ends();
        let (setting, message, help) = match misfit {
            Misfit::ChunksOfOneStage => (
                VIRTUAL_PIPELINE,
                format!("{chunks} chunks on each pipeline rank, but there is one pipeline rank"),
                self.other_than_chunks(),
            ),
            Misfit::End(end) => (
                ENDS[end],
                format!(
                    "`{}` is {}, which {chunks} chunks cannot share evenly",
                    ENDS[end],
                    self.ends[end].unwrap_or(0)
                ),
                self.other_end(end),
            ),
            Misfit::TooMany => {
                let end = usize::from(self.ends[0].is_none());
                let message = format!("the first and the last pipeline rank ask for {ends} layers, the model has {layers}");
                (ENDS[end], message, self.other_end(end))
            }
            Misfit::Left => {
                let message = format!("the two pipeline ranks ask for {ends} layers, the model has {layers}");
                (ENDS[0], message, self.other_end(0))
            }
            Misfit::Between { stages: between, rest } => {
                let of = if ends > 0 {
                    format!("{rest} of {layers}")
                } else {
                    rest.to_string()
                };
                let cannot = format!("{of} layers cannot be shared evenly by {between} pipeline ranks");
                let (setting, message) = match chunks {
                    1 => (PIPELINE, cannot),
                    _ => (VIRTUAL_PIPELINE, format!("{cannot} of {chunks} chunks each")),
                };
                (setting, message, self.other_pipeline())
            }
        };
        Uneven { setting, message, help }
    }

    /// One stage with chunks: none of them, or the fewest stages that can have them.
    fn other_than_chunks(&self) -> String {
        let stages = (2..=self.layers.min(FAR)).find(|stages| Self { stages: *stages, ..*self }.fits());
        match stages {
            Some(stages) => format!("set {PIPELINE} to {stages}, or {VIRTUAL_PIPELINE} to null"),
            None => format!("set {VIRTUAL_PIPELINE} to null"),
        }
    }

    /// Another number of layers for an end, the nearest, the smaller of two; where none will do, another pipeline.
    fn other_end(&self, end: usize) -> String {
        let with = |own: Option<usize>| {
            let mut other = *self;
            other.ends[end] = own;
            other
        };
        // No end has more than all layers.
        let from = self.ends[end].unwrap_or(0).min(self.layers);
        let near = |distance: usize| [from.checked_sub(distance), from.checked_add(distance)].into_iter().flatten();
        // The last one has the head, and a layer at least.
        let nearest = (0..=FAR).flat_map(near).find(|own| *own >= end && with(Some(*own)).fits());
        match nearest {
            Some(nearest) => format!("nearest that fits: {nearest}"),
            None if with(None).fits() => "set it to null".to_owned(),
            None => self.other_pipeline(),
        }
    }

    /// Another number of stages and chunks, the nearest.
    fn other_pipeline(&self) -> String {
        let Self { layers, .. } = *self;
        // A stage more than there are layers is that of the vision encoder alone.
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
        let (stages, chunks) = (0..=FAR).flat_map(around).find(fits).unwrap_or((1, 1));
        let ranks = if stages == 1 { "rank" } else { "ranks" };
        let each = match (chunks, self.chunks) {
            (1, 1) => String::new(),
            (1, _) => format!(", and {VIRTUAL_PIPELINE} null"),
            _ => format!(" of {chunks} chunks each"),
        };
        let ends = if self.ends == [None; 2] && self.chunks == 1 {
            format!("; or say how many layers the ends take: {}, {}", ENDS[0], ENDS[1])
        } else {
            String::new()
        };
        format!("nearest that divides {layers} layers: {stages} pipeline {ranks}{each}{ends}")
    }
}

/// Whether the layers can be shared out over the pipeline as the run asks.
pub(crate) fn validate_layers(finetune: &Finetune, path: &str, problems: &mut Vec<Problem>) {
    let layers = finetune.model.llava().text_config.num_hidden_layers;
    let strategy = &finetune.trainer.strategy;
    let shared = u64::from(strategy.tensor_model_parallel_size) * u64::from(strategy.context_parallel_size);
    let ranks = finetune.trainer.world_size();
    let shares = LayerShares {
        ranks: (shared > 0 && ranks > 0 && ranks.is_multiple_of(shared)).then(|| ranks / shared),
        ..LayerShares::of(strategy, layers)
    };
    if let Err(uneven) = shares.each() {
        let path = format!("{path}.trainer.strategy.{}", uneven.setting);
        problems.push(Problem::error(path, uneven.message).help(uneven.help));
    }
}
