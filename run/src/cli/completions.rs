//! `neva-run completions SHELL`.

use std::io::{self, Write as _};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, report::written};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run completions bash > ~/.local/share/bash-completion/completions/neva-run
  neva-run completions zsh > \"${fpath[1]}/_neva-run\"
  neva-run completions fish > ~/.config/fish/completions/neva-run.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), RunError> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    let mut out = io::stdout();
    out.write_all(&script).and_then(|()| out.flush()).or_else(written)
}
