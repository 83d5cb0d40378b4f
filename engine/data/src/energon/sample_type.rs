//! Energon's sample types, with their fields.

/// A sample type that can be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    clippy::allow_attributes,
    reason = "named as in megatron-energon, whose documentation describes them"
)]
pub enum SampleType {
    Captioning,
    Image,
    ImageClassification,
    Interleaved,
    MultiChoiceVqa,
    Ocr,
    SimilarityInterleaved,
    Text,
    Vqa,
    VqaOcr,
}

use SampleType::{Captioning, Image, ImageClassification, Interleaved, MultiChoiceVqa, Ocr, SimilarityInterleaved, Text, Vqa, VqaOcr};

/// Name, required fields and optional fields of each type.
#[rustfmt::skip]
const TYPES: &[(SampleType, &str, &[&str], &[&str])] = &[
    (Captioning, "CaptioningSample", &["image", "caption"], &[]),
    (Image, "ImageSample", &["image"], &[]),
    (ImageClassification, "ImageClassificationSample", &["image"], &["label", "label_name"]),
    (Interleaved, "InterleavedSample", &["sequence"], &[]),
    (MultiChoiceVqa, "MultiChoiceVQASample", &["image", "context"], &["choices", "correct_choice_idx"]),
    (Ocr, "OCRSample", &["image", "text"],
        &["block_boxes", "block_classes", "block_text", "lines_boxes", "lines_text", "words_boxes", "words_text"]),
    (SimilarityInterleaved, "SimilarityInterleavedSample", &["images", "texts"],
        &["audio", "video", "similarity_matrix", "matched_text_indices"]),
    (Text, "TextSample", &["text"], &[]),
    (Vqa, "VQASample", &["image", "context"], &["answers", "answer_weights"]),
    (VqaOcr, "VQAOCRSample", &["image", "context", "text"], &["answers", "answer_weights", "words_boxes", "words_text"]),
];

impl SampleType {
    /// Returns the type of this name, also under that of its deprecated dataset class: `VQASample`, `VQAWebdataset`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let stem = |name: &str| {
            let name = name.rsplit('.').next().unwrap_or(name).to_owned();
            name.strip_suffix("Sample")
                .or_else(|| name.strip_suffix("Webdataset"))
                .map(str::to_owned)
        };
        let wanted = stem(name)?;
        TYPES.iter().find(|row| stem(row.1).as_ref() == Some(&wanted)).map(|row| row.0)
    }

    /// Returns Energon's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns the fields that a sample must have.
    pub(super) fn required(self) -> &'static [&'static str] {
        self.row().2
    }

    /// Returns the names of all fields.
    pub(super) fn fields(self) -> impl Iterator<Item = &'static str> {
        let row = self.row();
        row.2.iter().chain(row.3).copied()
    }

    /// Returns the names of all types that can be trained on.
    pub(super) fn names() -> Vec<&'static str> {
        TYPES.iter().filter(|row| row.0 != Image).map(|row| row.1).collect()
    }

    fn row(self) -> &'static (Self, &'static str, &'static [&'static str], &'static [&'static str]) {
        TYPES.iter().find(|row| row.0 == self).unwrap_or(&TYPES[0])
    }
}
