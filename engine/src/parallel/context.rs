//! Context-parallel shards of a batch.

use crate::batch::Batch;
use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use neva_layout::ZigZag;
use tch::{Kind, Tensor};

/// Returns this rank's shard of each sequence.
pub fn zigzag(mesh: &Mesh) -> ZigZag {
    let group = mesh.axis(Axis::Context);
    ZigZag {
        rank: group.rank(),
        ranks: group.size(),
    }
}

/// Returns a rank's shard of a batch, as Megatron's `get_batch_on_this_cp_rank`: tokens and labels of its positions, and
/// the rows of image features at these positions. Segment bounds and images stay those of the whole batch.
///
/// # Errors
/// The rows cannot be cut evenly.
pub fn batch_on_this_cp_rank(batch: Batch, zigzag: ZigZag) -> Result<Batch> {
    if zigzag.ranks == 1 {
        return Ok(batch);
    }
    let (s, device) = (batch.input_ids_bs.size()[1] as usize, batch.input_ids_bs.device());
    if s % zigzag.multiple() != 0 {
        return Err(EngineError::Bug(format!(
            "rows of {s} positions cannot be cut into two chunks for each of {} ranks",
            zigzag.ranks
        )));
    }
    let positions: Vec<_> = zigzag.positions(s).map(|position| position as i64).collect();
    let held = Tensor::from_slice(&positions).to_device(device);
    let (image_positions, feature_rows) = local_features(&batch, s, zigzag)?;
    Ok(Batch {
        input_ids_bs: batch.input_ids_bs.f_index_select(1, &held)?,
        labels_bs: batch.labels_bs.f_index_select(1, &held)?,
        segments: batch.segments.held(positions),
        pixels: batch.pixels,
        image_positions: Tensor::from_slice(&image_positions).to_device(device),
        feature_rows: Some(Tensor::from_slice(&feature_rows).to_device(device)),
    })
}

/// Returns the image features at this rank's positions of rows of `s`: flattened local positions, and feature rows.
fn local_features(batch: &Batch, s: usize, zigzag: ZigZag) -> Result<(Vec<i64>, Vec<i64>)> {
    let integers = |tensor: &Tensor| -> Result<Vec<i64>> { Ok(Vec::try_from(tensor.f_to_kind(Kind::Int64)?)?) };
    let positions = integers(&batch.image_positions)?;
    let rows = match &batch.feature_rows {
        Some(rows) => integers(rows)?,
        None => (0..positions.len() as i64).collect(),
    };
    let each = s / zigzag.ranks;
    let held = positions.iter().zip(rows).filter_map(|(position, row)| {
        let position = *position as usize;
        let local = zigzag.local(s, position % s)?;
        Some(((position / s * each + local) as i64, row))
    });
    Ok(held.unzip())
}
