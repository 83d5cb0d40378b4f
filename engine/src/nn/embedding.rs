//! Vocabulary-parallel token embedding.

use super::region::TensorRegion;
use crate::error::Result;
use crate::param_sync::Weight;
use tch::Tensor;

/// Rows `start..start + rows` of an embedding.
#[derive(Debug)]
pub struct VocabEmbedding {
    weight_vh: Weight,
    start: i64,
    region: TensorRegion,
}

impl VocabEmbedding {
    pub(super) fn new(weight_vh: Weight, start: usize, region: TensorRegion) -> Self {
        Self {
            weight_vh,
            start: start as i64,
            region,
        }
    }

    /// Returns the embeddings of `ids_bs`, all of them on every rank: the sum over the ranks, with 0 for ids of other ranks.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, ids_bs: &Tensor) -> Result<Tensor> {
        let weight_vh = self.weight_vh.get()?;
        if self.region.size() == 1 {
            return Ok(Tensor::embedding(weight_vh, ids_bs, -1, false, false));
        }
        let local = ids_bs - self.start;
        let mine = local.ge(0).logical_and(&local.lt(weight_vh.size()[0]));
        let rows_bsh = Tensor::embedding(weight_vh, &local.where_self(&mine, &local.zeros_like()), -1, false, false);
        let mask = mine.unsqueeze(-1).to_kind(rows_bsh.kind());
        self.region.sum(&(rows_bsh * mask))
    }
}
