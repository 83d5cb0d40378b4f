//! `neva-run generate`: answers a prompt with a trained model.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use clap::Args;

use crate::{error::RunError, program};

const EXAMPLES: &str = "\
Examples:
  neva-run generate --checkpoint RUN_FOLDER --image cat.jpg --prompt \"What is this?\"
  neva-run generate --checkpoint RUN_FOLDER/checkpoints/NAME --image a.jpg b.jpg \\
      --prompt \"<image> <image> What differs?\" --max-new-tokens 200";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GenerateArgs {
    /// Folder of a checkpoint, of a run (its newest checkpoint), or of all runs of a name (the newest run)
    #[arg(long, value_name = "FOLDER")]
    checkpoint: PathBuf,
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
    command.arg("generate").arg("--checkpoint").arg(&args.checkpoint);
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
