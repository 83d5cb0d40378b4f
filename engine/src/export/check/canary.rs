//! The canary: a fixed prompt with a synthetic image, in token ids. No tokenizer and no image processor is needed.

use crate::attention::Segments;
use crate::batch::Batch;
use neva_data::IMAGE_TOKEN_INDEX;
use neva_schemas::ModelDescription;
use tch::{Kind, Tensor};

/// Positions of text before and after the image.
const TEXT: (usize, usize) = (4, 12);
/// Most positions of the image in the language model. The vision encoder sees the whole image.
const IMAGE: usize = 16;

/// Returns the canary for a model.
pub(super) fn canary(model: &ModelDescription) -> Batch {
    let vocabulary = model.decoder.as_ref().map_or(1, |decoder| decoder.config.vocab_size);
    let features = model.image_seq_length();
    let shown = if model.vision.is_some() { features.min(IMAGE) } else { 0 };
    let (before, after) = TEXT;
    let mut ids: Vec<i64> = (0..before + after).map(|position| token(position, vocabulary)).collect();
    ids.splice(before..before, std::iter::repeat_n(IMAGE_TOKEN_INDEX, shown));
    let positions: Vec<i64> = (before..before + shown).map(|position| position as i64).collect();
    // Spread over the image.
    let rows: Vec<i64> = (0..shown).map(|row| (row * features / shown) as i64).collect();
    let input_ids_bs = Tensor::from_slice(&ids).unsqueeze(0);
    Batch {
        labels_bs: input_ids_bs.full_like(neva_data::IGNORE_INDEX),
        input_ids_bs,
        segments: Segments::rows(&[ids.len()]),
        pixels: model.vision.is_some().then(|| pixels(model.image_size() as i64)),
        image_positions: Tensor::from_slice(&positions),
        feature_rows: (shown < features).then(|| Tensor::from_slice(&rows)),
    }
}

/// Returns a token id, spread over the vocabulary.
fn token(position: usize, vocabulary: usize) -> i64 {
    ((position * 7919 + 31) % vocabulary) as i64
}

/// Returns an image of colour gradients with stripes, in the range of normalized pixels.
fn pixels(edge: i64) -> Tensor {
    let ramp = Tensor::arange(edge, (Kind::Float, tch::Device::Cpu)) / edge as f64;
    let (rows, columns) = (ramp.unsqueeze(1), ramp.unsqueeze(0));
    let channels = [1.0, 2.0, 3.0].map(|channel: f64| {
        let stripes = (&columns * (9.0 * channel) + &rows * 5.0).sin();
        stripes + (&rows * channel - &columns)
    });
    Tensor::stack(&channels, 0).unsqueeze(0)
}
