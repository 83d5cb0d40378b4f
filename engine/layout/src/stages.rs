//! Partition of the layers among pipeline stages.

use crate::parameter::{ParamSpec, Stage};
use neva_schemas::{LayerSplit, MegatronStrategy, UnevenLayers};
use serde::Serialize;
use std::ops::Range;

/// Model chunks of a pipeline. Each stage holds one chunk of consecutive layers or, interleaved, several (Megatron-LM,
/// arXiv:2104.04473).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stages {
    stages: usize,
    chunks: usize,
    /// First layer of each chunk, and the number of layers at the end.
    bounds: Vec<usize>,
}

/// Contents of one model chunk: consecutive layers of one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChunkSpec {
    /// Whether it starts with the embedding and the vision encoder.
    pub first: bool,
    /// Layers of the language model.
    pub layers: Range<usize>,
    /// Whether it ends with the final norm and the head.
    pub last: bool,
}

impl ChunkSpec {
    /// Returns a chunk that holds the whole model.
    pub fn whole(layers: usize) -> Self {
        Self {
            first: true,
            layers: 0..layers,
            last: true,
        }
    }

    /// Returns whether it holds the parameter.
    pub fn holds(&self, spec: &ParamSpec) -> bool {
        match spec.stage {
            Stage::First => self.first,
            Stage::FirstAndLast => self.first || self.last,
            Stage::Layer(layer) => self.layers.contains(&layer),
            Stage::Last => self.last,
        }
    }
}

impl Stages {
    /// Splits `layers` layers among the stages as in `strategy`.
    ///
    /// # Errors
    /// The layers cannot be split evenly.
    pub fn of(strategy: &MegatronStrategy, layers: usize) -> Result<Self, UnevenLayers> {
        let split = LayerSplit::of(strategy, layers);
        let each = split.each()?;
        let LayerSplit { stages, chunks, .. } = split;
        let mut bounds = vec![0];
        for number in 0..stages * chunks {
            bounds.push(bounds[number] + split.of_stage(number % stages, each) / chunks);
        }
        Ok(Self { stages, chunks, bounds })
    }

    /// Returns the number of pipeline stages.
    pub fn stages(&self) -> usize {
        self.stages
    }

    /// Returns the number of model chunks of each stage.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Returns the number in the model's order of chunk `chunk` of stage `stage`.
    pub fn chunk_number(&self, stage: usize, chunk: usize) -> usize {
        chunk * self.stages + stage
    }

    /// Returns chunk `number` in the model's order.
    pub fn chunk_spec(&self, number: usize) -> ChunkSpec {
        ChunkSpec {
            first: number == 0,
            layers: self.bounds[number]..self.bounds[number + 1],
            last: number + 2 == self.bounds.len(),
        }
    }

    /// Returns the chunks of a stage.
    pub fn chunk_specs(&self, stage: usize) -> Vec<ChunkSpec> {
        (0..self.chunks)
            .map(|chunk| self.chunk_spec(self.chunk_number(stage, chunk)))
            .collect()
    }
}
