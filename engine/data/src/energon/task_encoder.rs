//! Task encoders of a program's own.

use super::sample::EnergonSample;
use crate::{conversation::Conversation, error::DataError};

/// Turns the samples of Energon datasets into text to train on, in place of the built-in encoder of all sample types.
pub trait TaskEncoder: Send + Sync {
    /// Returns the text of a sample, and the parts of its images. All ranks must return the same.
    ///
    /// # Errors
    /// The sample is invalid: see [`EnergonSample::invalid`].
    fn encode(&self, sample: &EnergonSample) -> Result<TaskText, DataError>;
}

/// Text of a sample, before tokenization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskText {
    /// A conversation, which the run's template renders. Its answers are trained on.
    Conversation {
        /// The conversation; [`IMAGE_TOKEN`](crate::IMAGE_TOKEN) stands for an image.
        conversation: Conversation,
        /// Part of each image, in the order of their places.
        images: Vec<String>,
    },
    /// Text and images as they are. All text is trained on.
    Document(Vec<DocumentPiece>),
}

/// Piece of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentPiece {
    /// A text.
    Text(String),
    /// The part of an image.
    Image(String),
}
