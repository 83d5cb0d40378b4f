//! `neva-run import SOURCE`: adds a model to the model cache.

use std::{fmt, path::PathBuf};

use clap::{Args, ValueHint};

use super::{OutputArgs, report::Report};
use crate::{
    error::RunError,
    import::{Import, Imported},
};

const EXAMPLES: &str = "\
Examples:
  neva-run import hf://llava-hf/llava-1.5-7b-hf            then nemo://llava-hf/llava-1.5-7b-hf
  neva-run import hf://openai/clip-vit-large-patch14-336   a vision encoder alone
  neva-run import /data/my-llava --overwrite               then nemo://my-llava
  neva-run import hf://llava-hf/llava-1.5-7b-hf@refs/pr/1 --out models/llava

Variables: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE; NEMO_MODELS_CACHE, NEMO_HOME.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// `hf://ORG/NAME[@REVISION]`, or a folder with config.json and *.safetensors
    #[arg(value_name = "SOURCE", value_hint = ValueHint::DirPath)]
    source: String,
    /// Target folder; default: a folder of the model's name in the model cache
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Replace another model of this name
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Downloads, checks and copies a model.
pub(super) fn import(args: ImportArgs, report: &mut Report) -> Result<(), RunError> {
    let import = Import {
        source: args.source,
        out: args.out,
        overwrite: args.overwrite,
    };
    let imported = import.run(&mut |text| report.note(text))?;
    for warning in &imported.warnings {
        report.note(format_args!("warning: {warning}"));
    }
    report.result(Human(&imported), &imported);
    Ok(())
}

/// An imported model, for people.
struct Human<'a>(&'a Imported);

impl fmt::Display for Human<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Imported {
            path,
            address,
            kind,
            model_type,
            parameters,
            reused,
            ..
        } = self.0;
        let done = if *reused { "already imported" } else { "imported" };
        write!(f, "{done}: {kind} ({model_type}), {parameters} parameters")?;
        write!(f, "\n  folder   {}", path.display())?;
        match address {
            Some(address) => write!(f, "\n  address  {address}"),
            None => Ok(()),
        }
    }
}
