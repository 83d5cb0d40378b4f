//! `neva-run generate`: answers a prompt with a trained model.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{Globals, rank_command::RankCommand};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run generate --checkpoint RUN_FOLDER --image cat.jpg --prompt \"What is this?\"
  neva-run generate --checkpoint RUN_FOLDER/checkpoints/NAME --image a.jpg b.jpg \\
      --prompt \"<image> <image> What differs?\" --max-new-tokens 200
  neva-run generate --model hf://llava-hf/llava-1.5-7b-hf --image cat.jpg --prompt \"What is this?\"
  neva-run generate --model BASE_FOLDER --adapter PEFT_FOLDER --prompt \"Hello\"";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("source").required(true).args(["checkpoint", "model"])))]
pub(super) struct GenerateArgs {
    /// Folder of a checkpoint, of a run (its newest checkpoint), or of all runs of a name (the newest run)
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["adapter", "conv_template", "dtype"])]
    checkpoint: Option<PathBuf>,
    /// Present place of the weights that the run started from, if they have moved
    #[arg(long, value_name = "MODEL", num_args = 1.., conflicts_with = "model")]
    base: Vec<PathBuf>,
    /// Model in Hugging Face's format: a folder, `nemo://ORG/NAME` or `hf://ORG/NAME`; it answers with its own chat template
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Adapter on the model: a folder of PEFT
    #[arg(long, value_name = "FOLDER", requires = "model")]
    adapter: Option<PathBuf>,
    /// Conversation template in place of the model's chat template, for example `v1`
    #[arg(long, value_name = "NAME", requires = "model")]
    conv_template: Option<String>,
    /// Data type of the computation: by default that of the model's config, or bfloat16 for float16
    #[arg(long, value_name = "DTYPE", requires = "model", value_parser = ["float32", "bfloat16"])]
    dtype: Option<String>,
    /// Images, one for each `<image>` in the prompt
    #[arg(long = "image", value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Prompt; `<image>` is prepended if it is missing and images are given
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Maximum length of the answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
}

/// Replaces this process by `neva-rank generate`. Returns only on failure.
pub(super) fn generate(args: &GenerateArgs, globals: &Globals) -> Result<(), RunError> {
    let mut command = RankCommand::new("generate", globals)?;
    command.option("--checkpoint", args.checkpoint.as_ref());
    command.option("--adapter", args.adapter.as_ref());
    args.base.iter().for_each(|base| command.option("--base", Some(base)));
    command.option("--model", args.model.as_ref());
    command.option("--conv-template", args.conv_template.as_ref());
    command.option("--dtype", args.dtype.as_ref());
    args.images.iter().for_each(|image| command.option("--image", Some(image)));
    command.option("--prompt", Some(&args.prompt));
    command.option("--max-new-tokens", Some(args.max_new_tokens.to_string()));
    command.run()
}
