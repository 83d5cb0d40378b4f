//! Arguments of `neva-rank generate`.

use super::environment::lookup;
use super::run_folder::newest_run;
use crate::checkpoint::ModelCache;
use crate::error::Result;
use crate::generate::{AnsweringModel, write_logits};
use crate::model::Models;
use clap::{ArgGroup, Args};
use neva_schemas::{GenerateRequest, GenerateSource, Precision};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["checkpoint", "model"])))]
pub(super) struct GenerateArgs {
    /// A checkpoint; or a run's folder, for its newest checkpoint; or the folder of all runs of a name, for its newest
    /// run.
    #[arg(long, conflicts_with_all = ["adapter", "conv_template", "dtype"])]
    checkpoint: Option<PathBuf>,
    /// Present place of the checkpoint's base weights. Repeat it for each part that has weights of its own.
    #[arg(long, conflicts_with = "model")]
    base: Vec<PathBuf>,
    /// A model in Hugging Face's format: a folder, nemo://ORG/NAME or hf://ORG/NAME.
    #[arg(long)]
    model: Option<String>,
    /// A folder of PEFT with an adapter on the model.
    #[arg(long, requires = "model")]
    adapter: Option<PathBuf>,
    /// Conversation template in place of the model's chat template.
    #[arg(long, requires = "model")]
    conv_template: Option<String>,
    /// Data type of the computation, in place of the model's.
    #[arg(long, requires = "model", value_parser = parse_dtype)]
    dtype: Option<Precision>,
    /// An image. Repeat it for each `<image>` of the prompt.
    #[arg(long = "image")]
    images: Vec<PathBuf>,
    /// The question.
    #[arg(long)]
    prompt: String,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Also writes the prompt's token ids, pixels and logits to this safetensors file.
    #[arg(long)]
    logits: Option<PathBuf>,
}

impl GenerateArgs {
    /// Returns the answer.
    pub(super) fn answer(self, models: &Models) -> Result<String> {
        let cache = ModelCache::locate(lookup);
        let source = match self.checkpoint {
            Some(path) => GenerateSource::Checkpoint {
                path: newest_run(&path),
                base: self.base,
            },
            None => GenerateSource::Model {
                address: self.model.unwrap_or_default(),
                adapter: self.adapter,
                conv_template: self.conv_template,
                precision: self.dtype,
            },
        };
        let request = GenerateRequest {
            source,
            images: self.images,
            prompt: self.prompt,
            max_new_tokens: self.max_new_tokens,
        };
        let model = AnsweringModel::open(&request.source, models, &cache)?;
        let question = model.question(&request)?;
        let loaded = model.load(models, &cache)?;
        if let Some(path) = &self.logits {
            write_logits(path, &model, &loaded, &question)?;
        }
        model.answer(&loaded, &question, request.max_new_tokens)
    }
}

/// Parses transformers' name of a data type.
fn parse_dtype(text: &str) -> Result<Precision, String> {
    match text {
        "float32" => Ok(Precision::Fp32),
        "bfloat16" => Ok(Precision::Bf16Mixed),
        _ => Err("it is float32 or bfloat16".to_owned()),
    }
}
