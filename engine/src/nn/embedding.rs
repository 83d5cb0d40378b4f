//! Token embedding whose rows are cut over the tensor axis.

use crate::error::Result;
use crate::parallel::TensorRegion;
use tch::Tensor;

/// Rows `start..start + rows` of an embedding.
#[derive(Debug)]
pub struct VocabEmbedding {
    weight_vh: Tensor,
    start: i64,
    region: TensorRegion,
}

impl VocabEmbedding {
    pub(super) fn new(weight_vh: Tensor, start: usize, region: TensorRegion) -> Self {
        Self {
            weight_vh,
            start: start as i64,
            region,
        }
    }

    /// Rows of `ids_bs`, all of them on every rank; ids that another rank holds count 0 here and are summed in.
    ///
    /// # Errors
    /// A collective failed.
    pub fn forward(&self, ids_bs: &Tensor) -> Result<Tensor> {
        if self.region.size() == 1 {
            return Ok(Tensor::embedding(&self.weight_vh, ids_bs, -1, false, false));
        }
        let local = ids_bs - self.start;
        let mine = local.ge(0).logical_and(&local.lt(self.weight_vh.size()[0]));
        let rows_bsh = Tensor::embedding(&self.weight_vh, &local.where_self(&mine, &local.zeros_like()), -1, false, false);
        let mask = mine.unsqueeze(-1).to_kind(rows_bsh.kind());
        self.region.sum(&(rows_bsh * mask))
    }
}
