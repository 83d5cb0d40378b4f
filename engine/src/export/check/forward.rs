//! The model, one chunk of layers at a time.

use crate::attention::LocalAttention;
use crate::batch::Batch;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::loss::Head;
use crate::model::Models;
use crate::nn::{Build, ImagePartition, TensorRegion};
use crate::parameters::Parameters;
use neva_layout::{Adapters, ChunkSpec, ModelTable};
use neva_schemas::MegatronStrategy;
use std::sync::Arc;
use tch::Tensor;

/// Returns the chunks of a model: the embedding and the vision encoder, each layer, the head.
pub(super) fn chunks(table: &ModelTable) -> Vec<ChunkSpec> {
    let layers = table.description.num_layers();
    let chunk = |first, layers, last| ChunkSpec { first, layers, last };
    let mut chunks = vec![chunk(true, 0..0, false)];
    chunks.extend((0..layers).map(|layer| chunk(false, layer..layer + 1, false)));
    chunks.push(chunk(false, layers..layers, true));
    chunks
}

/// Computes a chunk: its hidden states, or logits `[s, v]` if it is the last one.
pub(super) fn forward(
    (models, table, chunk): (&Models, &ModelTable, &ChunkSpec),
    (parameters, adapters): (&Parameters, &Adapters),
    batch: &Batch,
    input: Option<&Tensor>,
) -> Result<Tensor> {
    let (mesh, strategy) = (Mesh::single(), MegatronStrategy::default());
    let region = TensorRegion::new(mesh.axis(Axis::Tensor).clone(), false);
    let build = Build::new(parameters, adapters, region, &strategy).sharing(
        Arc::new(LocalAttention::default()),
        ImagePartition::new(&mesh, strategy.vision_placement),
    );
    let hidden_bsh = models.build(table, chunk, &build)?.forward(batch, input)?;
    if !chunk.last {
        return Ok(hidden_bsh);
    }
    let name = table.head_weight();
    let name = name.ok_or_else(|| EngineError::Bug("a model without a decoder has no head".into()))?;
    let rows = parameters.get(&name)?.spec.shape[0];
    let head = Head::new(parameters.weight(&name)?, 0, rows, build.region());
    Ok(head.logits(&hidden_bsh)?.squeeze_dim(0))
}
