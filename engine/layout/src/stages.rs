//! Which layers each pipeline rank holds.

use neva_schemas::MegatronStrategy;
use serde::Serialize;
use std::ops::Range;

/// A model's layers in their order: what comes before the first one, the layers, what comes behind the last one. Each
/// stage of the pipeline holds one chunk of it or, interleaved, several (Megatron-LM, arXiv:2104.04473).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stages {
    stages: usize,
    chunks: usize,
    /// Layers up to the start of each section, and the number of layers at the end.
    bounds: Vec<usize>,
}

/// A run of layers that is computed at once: one chunk of one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// It starts with the embedding and the vision encoder.
    pub first: bool,
    /// Layers of the language model.
    pub layers: Range<usize>,
    /// It ends with the final norm and the head.
    pub last: bool,
}

impl Section {
    /// The whole model.
    pub fn whole(layers: usize) -> Self {
        Self {
            first: true,
            layers: 0..layers,
            last: true,
        }
    }

    /// Whether it takes the parameter `name` (canonical spelling); a tied embedding is taken where it starts the model
    /// and where it ends it.
    pub fn holds(&self, name: &str, tied: bool) -> bool {
        match Place::of(name) {
            Place::Embedding => self.first || (tied && self.last),
            Place::Front => self.first,
            Place::Layer(layer) => self.layers.contains(&layer),
            Place::Back => self.last,
        }
    }
}

/// Where a parameter belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Embedding,
    Front,
    Layer(usize),
    Back,
}

impl Place {
    fn of(name: &str) -> Self {
        let Some(rest) = name.strip_prefix("model.language_model.") else {
            return if name.starts_with("lm_head.") { Self::Back } else { Self::Front };
        };
        if rest.starts_with("embed_tokens.") {
            return Self::Embedding;
        }
        let layer = rest.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
        layer.and_then(|layer| layer.parse().ok()).map_or(Self::Back, Self::Layer)
    }
}

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

impl Stages {
    /// Shares `layers` layers out as `strategy` says.
    ///
    /// # Errors
    /// They do not divide.
    pub fn of(strategy: &MegatronStrategy, layers: usize) -> Result<Self, Uneven> {
        let (stages, chunks) = (
            strategy.pipeline_model_parallel_size.max(1) as usize,
            strategy.chunks().max(1) as usize,
        );
        let (pipeline, virtual_pipeline) = ("pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size");
        let uneven = |setting, message, help| Err(Uneven { setting, message, help });
        if stages == 1 {
            if chunks > 1 {
                let message = format!("{chunks} chunks on each pipeline rank, but there is one pipeline rank");
                return uneven(
                    virtual_pipeline,
                    message,
                    format!("set {pipeline} to 2 or more, or {virtual_pipeline} to null"),
                );
            }
            return Ok(Self {
                stages,
                chunks,
                bounds: vec![0, layers],
            });
        }
        let given = [
            ("num_layers_in_first_pipeline_stage", strategy.num_layers_in_first_pipeline_stage),
            ("num_layers_in_last_pipeline_stage", strategy.num_layers_in_last_pipeline_stage),
        ];
        let [first, last] = given.map(|(_, layers)| layers.map(|layers| layers as usize));
        for (setting, own) in given.iter().zip([first, last]).filter_map(|((name, _), own)| Some((*name, own?))) {
            if own % chunks != 0 || (own == 0 && chunks > 1) {
                let message = format!("`{setting}` is {own}, which {chunks} chunks cannot share evenly");
                return uneven(setting, message, format!("use {}", own.div_ceil(chunks).max(1) * chunks));
            }
        }
        let ends = first.unwrap_or(0) + last.unwrap_or(0);
        let between = stages - usize::from(first.is_some()) - usize::from(last.is_some());
        let Some(rest) = layers.checked_sub(ends) else {
            let message = format!("the first and the last pipeline rank ask for {ends} layers, the model has {layers}");
            return uneven(
                given[usize::from(first.is_none())].0,
                message,
                format!("leave {between} or more to the ranks between"),
            );
        };
        if between == 0 && rest > 0 {
            let message = format!("the two pipeline ranks ask for {ends} layers, the model has {layers}");
            return uneven(
                given[0].0,
                message,
                format!("make the two add up to {layers}, or set one of them to null"),
            );
        }
        if between > 0 && (rest == 0 || rest % (between * chunks) != 0) {
            let of = if ends > 0 {
                format!("{rest} of {layers}")
            } else {
                rest.to_string()
            };
            let (setting, message) = if chunks > 1 {
                (
                    virtual_pipeline,
                    format!("{of} layers cannot be shared evenly by {between} pipeline ranks of {chunks} chunks each"),
                )
            } else {
                (pipeline, format!("{of} layers cannot be shared evenly by {between} pipeline ranks"))
            };
            return uneven(setting, message, nearest(layers, stages, chunks));
        }
        let each = rest.checked_div(between).unwrap_or(0);
        let of_stage = |stage: usize| match (stage, first, last) {
            (0, Some(own), _) => own,
            (stage, _, Some(own)) if stage + 1 == stages => own,
            _ => each,
        };
        let mut bounds = vec![0];
        for section in 0..stages * chunks {
            bounds.push(bounds[section] + of_stage(section % stages) / chunks);
        }
        Ok(Self { stages, chunks, bounds })
    }

    /// Pipeline ranks.
    pub fn stages(&self) -> usize {
        self.stages
    }

    /// Sections of each stage.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Number of the section, in the model's order, that is chunk `chunk` of stage `stage`.
    pub fn number(&self, stage: usize, chunk: usize) -> usize {
        chunk * self.stages + stage
    }

    /// The section of that number.
    pub fn section(&self, number: usize) -> Section {
        Section {
            first: number == 0,
            layers: self.bounds[number]..self.bounds[number + 1],
            last: number + 2 == self.bounds.len(),
        }
    }

    /// Sections of a stage, by chunk.
    pub fn sections(&self, stage: usize) -> Vec<Section> {
        (0..self.chunks).map(|chunk| self.section(self.number(stage, chunk))).collect()
    }
}

/// The choice nearest to `stages` and `chunks` that shares `layers` out evenly.
fn nearest(layers: usize, stages: usize, chunks: usize) -> String {
    let distance = |(s, c): (usize, usize)| (s.abs_diff(stages) + c.abs_diff(chunks), s, c);
    let all = (1..=layers).flat_map(|s| (1..=layers / s).map(move |c| (s, c)));
    let fits = all.filter(|(s, c)| layers.is_multiple_of(s * c) && (*s > 1 || *c == 1));
    match fits.min_by_key(|choice| distance(*choice)) {
        Some((stages, 1)) => format!(
            "nearest that divides {layers} layers: {stages} pipeline ranks; or say how many layers the ends take: num_layers_in_first_pipeline_stage, num_layers_in_last_pipeline_stage"
        ),
        Some((stages, chunks)) => format!("nearest that divides {layers} layers: {stages} pipeline ranks of {chunks} chunks each"),
        None => "the model has no layers".into(),
    }
}
