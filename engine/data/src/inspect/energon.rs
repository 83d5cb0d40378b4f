//! Samples of Energon datasets, as the model gets them.

use super::{InspectError, InspectedData, InspectedImage, InspectedSample, Selection, piece, spread_numbers};
use crate::{
    check::{Kind, lengths_of},
    energon::EnergonDataset,
    sample::Dataset as _,
};

/// Settings of [`inspect_energon`].
#[derive(Clone, Debug)]
pub struct EnergonView {
    /// Name of the conversation template.
    pub template: String,
    /// Address of the tokenizer; `None` if it is that of the model.
    pub tokenizer: Option<String>,
    /// Maximum number of positions of a sample.
    pub seq_length: usize,
    /// Number of positions of an image.
    pub image_positions: usize,
}

/// Reads the selected samples of the splits, by the names of the splits. A sample with a problem is returned with it.
///
/// # Errors
/// There is no such split or sample.
pub fn inspect_energon(
    splits: &[(&str, &EnergonDataset)],
    view: &EnergonView,
    selection: &Selection,
) -> Result<InspectedData, InspectError> {
    let files: Vec<String> = splits.iter().map(|(name, _)| (*name).to_owned()).collect();
    let samples: usize = splits.iter().map(|(_, dataset)| dataset.len()).sum();
    if samples == 0 {
        return Err(InspectError::NoRecords { files });
    }
    let places = match selection {
        Selection::Spread(count) => {
            let nth = |mut index: usize| {
                for (name, dataset) in splits {
                    if index < dataset.len() {
                        return Some((*name, *dataset, index));
                    }
                    index -= dataset.len();
                }
                None
            };
            spread_numbers(*count, samples).filter_map(nth).collect()
        }
        Selection::Record { file, index } => {
            let is_named = |(name, _): &&(&str, &EnergonDataset)| file.as_ref().is_none_or(|file| file == name);
            let (name, dataset) = splits.iter().find(is_named).ok_or_else(|| InspectError::UnknownFile {
                requested: file.clone().unwrap_or_default(),
                files: files.clone(),
            })?;
            if *index >= dataset.len() {
                return Err(InspectError::Index {
                    file: (*name).to_owned(),
                    index: *index,
                    len: dataset.len(),
                });
            }
            vec![(*name, *dataset, *index)]
        }
    };
    Ok(InspectedData {
        samples: places
            .into_iter()
            .map(|(name, dataset, index)| sample(name, dataset, index, view))
            .collect(),
        files,
        records: samples,
        template: view.template.clone(),
        tokenizer: view.tokenizer.clone(),
        seq_length: view.seq_length,
        image_positions: view.image_positions,
    })
}

fn sample(split: &str, dataset: &EnergonDataset, index: usize, view: &EnergonView) -> InspectedSample {
    let mut sample = InspectedSample {
        file: split.to_owned(),
        record: index,
        id: Some(dataset.name(index)),
        ..InspectedSample::default()
    };
    let encoding = match dataset.encoding(index) {
        Ok(encoding) => encoding,
        Err(error) => {
            sample.problems.push((Kind::Field, error.to_string()));
            return sample;
        }
    };
    let mut tiles = Vec::new();
    for part in &encoding.images {
        let image = match dataset.image(&encoding.sample, part) {
            Ok(image) => InspectedImage::of(part.clone(), &image, &dataset.tiles(&image)),
            Err(error) => InspectedImage {
                path: part.clone(),
                problem: Some((Kind::ImageBroken, error.to_string())),
                ..InspectedImage::default()
            },
        };
        tiles.push(image.processed.len().max(1));
        sample.problems.extend(image.problem.clone());
        sample.images.push(image);
    }
    let decode = |ids: &[i64]| dataset.decode_tokens(ids);
    sample.pieces = piece::pieces(&decode, &encoding.encoded, &tiles, view.image_positions, view.seq_length);
    sample.text = encoding.prompt.text;
    match lengths_of(encoding.encoded, &tiles, view.image_positions, view.seq_length) {
        Ok(lengths) => {
            sample.positions = lengths.positions;
            sample.image_positions = lengths.image_positions;
            sample.labels = lengths.labels;
            sample.kept_labels = lengths.kept_labels;
        }
        Err(reason) => sample.problems.push((Kind::Tokens, reason)),
    }
    sample
}
