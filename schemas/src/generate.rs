//! A request to answer a prompt.

use crate::precision::Precision;
use std::path::PathBuf;

/// Request to `neva-rank generate`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The model that answers.
    pub source: GenerateSource,
    /// Images, one for each `<image>` of the prompt.
    pub images: Vec<PathBuf>,
    /// The question; `<image>` is prepended if it is missing and there are images.
    pub prompt: String,
    /// Maximum length of the answer, in tokens.
    pub max_new_tokens: usize,
}

/// The model that answers a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateSource {
    /// What a run trained, with the tokenizer, template and image processor of its data.
    Checkpoint {
        /// A checkpoint folder, or a run's folder, of which the newest checkpoint is used.
        path: PathBuf,
        /// Folders of the weights that the run started from, if they are no longer where the run found them.
        base: Vec<PathBuf>,
    },
    /// A model in Hugging Face's format, with its own tokenizer, chat template, image processor and generation config.
    Model {
        /// A folder, `nemo://ORG/NAME` or `hf://ORG/NAME`.
        address: String,
        /// An adapter that was trained on it: a folder of PEFT.
        adapter: Option<PathBuf>,
        /// Conversation template in place of the tokenizer's chat template.
        conv_template: Option<String>,
        /// Data type of the computation; `None` is that of the model's config.
        precision: Option<Precision>,
    },
}
