//! The text that each image of a sample belongs to.

use super::sample::{EnergonSample, Value};
use crate::error::DataError;

/// Returns the index of the text of each image: `matched_text_indices`, or the most similar text.
pub(super) fn matched_texts(sample: &EnergonSample, images: usize, texts: usize) -> Result<Vec<usize>, DataError> {
    let within = |index: usize, at: Option<usize>, field: &str| match at.filter(|at| *at < texts) {
        Some(at) => Ok(at),
        None => Err(sample.invalid(&format!("{field}[{index}]"), format!("names no text: there are {texts}"))),
    };
    if let Some(indices) = sample.numbers("matched_text_indices")? {
        if indices.len() != images {
            return Err(sample.invalid(
                "matched_text_indices",
                format!("has {} number(s) for {images} image(s)", indices.len()),
            ));
        }
        let whole = |number: &f64| (number.fract() == 0.0 && *number >= 0.0).then_some(*number as usize);
        let indices = indices.iter().enumerate();
        return indices
            .map(|(index, number)| within(index, whole(number), "matched_text_indices"))
            .collect();
    }
    let Value::List(rows) = sample.get("similarity_matrix") else {
        return match images {
            0 => Ok(Vec::new()),
            _ => Err(sample.invalid(
                "matched_text_indices",
                "is missing, and there is no similarity_matrix: an image needs its text",
            )),
        };
    };
    if rows.len() != images {
        return Err(sample.invalid("similarity_matrix", format!("has {} row(s) for {images} image(s)", rows.len())));
    }
    let most_similar = |(index, row): (usize, &Value)| {
        let Value::List(row) = row else {
            return within(index, None, "similarity_matrix");
        };
        let mut best: Option<(usize, f64)> = None;
        for (at, value) in row.iter().enumerate() {
            let Value::Number(number) = value else {
                return within(index, None, "similarity_matrix");
            };
            let value = number.as_f64().unwrap_or(f64::NEG_INFINITY);
            if best.is_none_or(|(_, most)| value > most) {
                best = Some((at, value));
            }
        }
        within(index, best.map(|(at, _)| at), "similarity_matrix")
    };
    rows.iter().enumerate().map(most_similar).collect()
}
