//! Detection of datasets without labels.

use crate::{merge::MergeOptions, sample::Dataset};

/// Report on a dataset in which no sample has a label within `max_length`. It can be used neither for training nor for
/// validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlabelled {
    /// Number of samples in the dataset.
    pub samples: usize,
    /// Name of the sample whose first label is nearest to the start, and the smallest `max_length` that keeps this label.
    /// `None`: no sample has a label at any length.
    pub nearest: Option<(String, usize)>,
}

impl Unlabelled {
    /// Searches a dataset up to the first sample with a label. Returns `None` if there is one.
    ///
    /// Images are not decoded. A sample that cannot be read also ends the search with `None`; the step that reads it
    /// reports the error.
    #[must_use]
    pub fn find(dataset: &dyn Dataset, options: &MergeOptions) -> Option<Self> {
        let mut nearest: Option<(usize, usize)> = None;
        for index in 0..dataset.len() {
            let sample = dataset.get_without_pixels(index).ok()?;
            let Some(position) = sample.sequence().first_label(options.image_seq_len) else {
                continue;
            };
            if position < options.max_length {
                return None;
            }
            if nearest.is_none_or(|(_, least)| position < least) {
                nearest = Some((index, position));
            }
        }
        let needed = |position: usize| (position + 1).next_multiple_of(options.row_multiple.max(1));
        Some(Self {
            samples: dataset.len(),
            nearest: nearest.map(|(index, position)| (dataset.name(index), needed(position))),
        })
    }
}
