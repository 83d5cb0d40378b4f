//! `neva-run man DIR`.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, ValueHint};

use super::{Cli, export::create_folder};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run man ~/.local/share/man/man1";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {
    /// Folder to write to, created if missing
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

pub(super) fn man(args: &ManArgs) -> Result<(), RunError> {
    create_folder(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(|source| RunError::System {
        action: "write the man pages",
        source,
    })
}
