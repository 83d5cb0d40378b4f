//! What a rank of the context axis holds of a batch.

use crate::comm::{Axis, Mesh};
use crate::error::{EngineError, Result};
use crate::model::Batch;
use neva_layout::ZigZag;
use tch::{Kind, Tensor};

/// This rank's part of each sequence.
pub fn zigzag(mesh: &Mesh) -> ZigZag {
    let group = mesh.axis(Axis::Context);
    ZigZag {
        rank: group.rank(),
        ranks: group.size(),
    }
}

/// The part of a whole batch that a rank holds: tokens and labels of its places, and those rows of the pictures'
/// features that fall there. It keeps the bounds of the whole rows, and all pictures.
///
/// # Errors
/// The rows cannot be cut evenly.
pub fn context_part(batch: Batch, zigzag: ZigZag) -> Result<Batch> {
    if zigzag.ranks == 1 {
        return Ok(batch);
    }
    let (s, device) = (batch.input_ids_bs.size()[1] as usize, batch.input_ids_bs.device());
    if s % zigzag.multiple() != 0 {
        return Err(EngineError::Bug(format!(
            "rows of {s} places cannot be cut into two chunks for each of {} ranks",
            zigzag.ranks
        )));
    }
    let places: Vec<_> = zigzag.places(s).map(|place| place as i64).collect();
    let held = Tensor::from_slice(&places).to_device(device);
    let (image_positions, feature_rows) = pictures(&batch, s, zigzag)?;
    Ok(Batch {
        input_ids_bs: batch.input_ids_bs.f_index_select(1, &held)?,
        labels_bs: batch.labels_bs.f_index_select(1, &held)?,
        segments: batch.segments.held(places),
        pixels: batch.pixels,
        image_positions: Tensor::from_slice(&image_positions).to_device(device),
        feature_rows: Some(Tensor::from_slice(&feature_rows).to_device(device)),
    })
}

/// Positions of the features that fall into this rank's places of rows of `s`, flattened, and the features' rows.
fn pictures(batch: &Batch, s: usize, zigzag: ZigZag) -> Result<(Vec<i64>, Vec<i64>)> {
    let integers = |tensor: &Tensor| -> Result<Vec<i64>> { Ok(Vec::try_from(tensor.f_to_kind(Kind::Int64)?)?) };
    let positions = integers(&batch.image_positions)?;
    let rows = match &batch.feature_rows {
        Some(rows) => integers(rows)?,
        None => (0..positions.len() as i64).collect(),
    };
    let each = s / zigzag.ranks;
    let held = positions.iter().zip(rows).filter_map(|(position, row)| {
        let position = *position as usize;
        let place = zigzag.local(s, position % s)?;
        Some(((position / s * each + place) as i64, row))
    });
    Ok(held.unzip())
}
