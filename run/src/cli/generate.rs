//! `neva-run generate`: answers a prompt with a trained model.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use clap::{ArgGroup, Args};

use crate::{error::RunError, program};

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
pub(super) fn generate(args: &GenerateArgs) -> Result<(), RunError> {
    let program = program::find_here()?;
    let mut command = Command::new(&program);
    command.arg("generate");
    for (option, path) in [("--checkpoint", &args.checkpoint), ("--adapter", &args.adapter)] {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    for path in &args.base {
        command.arg("--base").arg(path);
    }
    for (option, text) in [
        ("--model", &args.model),
        ("--conv-template", &args.conv_template),
        ("--dtype", &args.dtype),
    ] {
        if let Some(text) = text {
            command.arg(option).arg(text);
        }
    }
    for image in &args.images {
        command.arg("--image").arg(image);
    }
    command
        .arg("--prompt")
        .arg(&args.prompt)
        .arg("--max-new-tokens")
        .arg(args.max_new_tokens.to_string());
    let source = command.exec();
    Err(RunError::RankProgram {
        program,
        reason: source.to_string(),
    })
}
