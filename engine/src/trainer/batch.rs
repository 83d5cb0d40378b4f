//! Converts collated batches to tensors.

use crate::attention::Segments;
use crate::batch::Batch;
use crate::error::Result;
use tch::{Device, Tensor};

/// Converts a collated batch to the model's tensors. An image takes `image_seq_len` positions.
///
/// # Errors
/// libtorch refused (out of memory).
pub fn to_device(batch: &neva_data::Batch, image_seq_len: usize, device: Device) -> Result<Batch> {
    let tokens = &batch.tokens;
    let shape = [tokens.b as i64, tokens.s as i64];
    let integers = |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_to_device(device)?) };
    let ends = |ends: &Vec<usize>| ends.iter().map(|end| *end as i64).collect();
    let pixels = if batch.pixels.is_empty() {
        None
    } else {
        let shape = batch.pixel_shape.map(|size| size as i64);
        Some(Tensor::f_from_slice(&batch.pixels)?.f_view(shape)?.f_to_device(device)?)
    };
    Ok(Batch {
        input_ids_bs: integers(&tokens.input_ids)?.f_view(shape)?,
        labels_bs: integers(&tokens.labels)?.f_view(shape)?,
        segments: Segments::packed(tokens.segments.iter().map(ends).collect()),
        pixels,
        image_positions: integers(&tokens.image_positions())?,
        feature_rows: tokens.feature_rows(image_seq_len).map(|rows| integers(&rows)).transpose()?,
    })
}
