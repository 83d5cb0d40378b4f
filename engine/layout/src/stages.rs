//! Which layers each pipeline rank holds.

use neva_schemas::{LayerShares, MegatronStrategy, Uneven};
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

impl Stages {
    /// Shares `layers` layers out as `strategy` says.
    ///
    /// # Errors
    /// They do not divide.
    pub fn of(strategy: &MegatronStrategy, layers: usize) -> Result<Self, Uneven> {
        let shares = LayerShares::of(strategy, layers);
        let each = shares.each()?;
        let LayerShares { stages, chunks, .. } = shares;
        let mut bounds = vec![0];
        for section in 0..stages * chunks {
            bounds.push(bounds[section] + shares.of_stage(section % stages, each) / chunks);
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
