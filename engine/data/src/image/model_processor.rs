//! Image processor of a model, with its origin.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use neva_schemas::ModelDescription;

use super::{
    preprocessor::{PREPROCESSOR_CONFIG, processor_content},
    process::ImageProcessor,
};
use crate::error::DataError;

/// An image processor with its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelProcessor {
    /// The processor.
    pub processor: ImageProcessor,
    /// Its origin.
    pub origin: ProcessorOrigin,
    /// Content of a `preprocessor_config.json` that describes it.
    content: Vec<u8>,
}

/// Origin of an image processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessorOrigin {
    /// A file.
    File(PathBuf),
    /// The values of the vision encoder's family.
    Family(String),
}

impl fmt::Display for ProcessorOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Family(name) => write!(f, "the default values of {name}"),
        }
    }
}

impl ModelProcessor {
    /// Reads the processor from a file or its folder.
    ///
    /// # Errors
    /// Returns an error if there is no such file, or if it describes no supported processor.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = ImageProcessor::file_at(path);
        let processor = ImageProcessor::open(&file)?;
        let content = processor_content(&file).map_err(|error| DataError::Read { path: file.clone(), error })?;
        Ok(Self {
            processor,
            origin: ProcessorOrigin::File(file),
            content,
        })
    }

    /// Returns the processor of a model: the one in the `folder` of its vision encoder, or the values of the encoder's family.
    ///
    /// # Errors
    /// Returns an error if the folder has a file that describes no supported processor.
    pub fn of_model(model: &ModelDescription, folder: Option<&Path>) -> Result<Self, DataError> {
        match folder.and_then(ImageProcessor::file_in) {
            Some(file) => Self::open(&file),
            None => {
                let processor = ImageProcessor::default_of(model);
                let family = model.vision.as_ref().map(|tower| tower.config.model_type.name());
                Ok(Self {
                    origin: ProcessorOrigin::Family(family.unwrap_or("language model").to_owned()),
                    content: format!("{:#}\n", processor.to_json()).into_bytes(),
                    processor,
                })
            }
        }
    }

    /// Returns name and content of a file that describes the processor.
    #[must_use]
    pub fn file(&self) -> (String, Vec<u8>) {
        (PREPROCESSOR_CONFIG.to_owned(), self.content.clone())
    }
}
