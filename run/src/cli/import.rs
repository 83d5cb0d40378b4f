//! `neva-run import SOURCE`: adds a model to the model cache.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args, ValueEnum as _, ValueHint};

use super::{Format, report::Report};
use crate::{
    error::RunError,
    import::{self, ImportOptions, Imported},
};

const EXAMPLES: &str = "\
Examples:
  neva-run import hf://llava-hf/llava-1.5-7b-hf            then nemo://llava-hf/llava-1.5-7b-hf
  neva-run import hf://liuhaotian/llava-v1.5-7b            the original LLaVA repository's form
  neva-run import hf://openai/clip-vit-large-patch14-336   a vision encoder alone
  neva-run import SmolLM2-135M-Instruct.Q4_1.gguf          a language model of llama.cpp
  neva-run import /data/my-llava --overwrite               then nemo://my-llava
  neva-run import checkpoints/llava-lora --base /models/vicuna-7b-v1.5
  neva-run import hf://llava-hf/llava-1.5-7b-hf@refs/pr/1 --output models/llava

Variables: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE; NEMO_MODELS_CACHE, NEMO_CACHE_DIR, NEMO_HOME.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// `hf://ORG/NAME[@REVISION]`, a folder with config.json and weights, or a file: *.gguf, *.safetensors, *.bin, *.pt
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    source: String,
    /// Target folder; default: a folder of the model's name in the model cache. `--output json` prints JSON
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, action = ArgAction::Append)]
    output: Vec<PathBuf>,
    /// The same as `--output`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, hide = true)]
    out: Option<PathBuf>,
    /// Replace another model of this name
    #[arg(long)]
    overwrite: bool,
    /// Language model of a checkpoint of the original LLaVA repository with adapters or a projector only
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    base: Option<String>,
    /// Vision encoder of a checkpoint of the original LLaVA repository that has none
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    vision_tower: Option<String>,
}

impl ImportArgs {
    /// Returns the format of standard output: `--output json`, as of every subcommand, is no folder.
    pub(super) fn format(&self) -> Format {
        let mut formats = self.output.iter().filter_map(|output| Self::format_of(output));
        formats.next_back().unwrap_or_default()
    }

    fn format_of(output: &Path) -> Option<Format> {
        Format::from_str(output.to_str()?, false).ok()
    }

    /// Returns the target folder.
    fn target(&self) -> Result<Option<PathBuf>, RunError> {
        let named = self.output.iter().filter(|output| Self::format_of(output).is_none());
        let mut named: Vec<_> = named.chain(&self.out).collect();
        let target = named.pop().cloned();
        match named.is_empty() {
            true => Ok(target),
            false => Err(RunError::Argument("`--output` names two folders".to_owned())),
        }
    }
}

/// Downloads, checks and copies a model.
pub(super) fn import(args: &ImportArgs, report: &mut Report) -> Result<(), RunError> {
    let options = ImportOptions {
        output: args.target()?,
        overwrite: args.overwrite,
        base: args.base.clone(),
        vision_tower: args.vision_tower.clone(),
    };
    let imported = import::import(&args.source, &options, None, &mut |text| report.note(text))?;
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
            cache,
            converted,
            kind,
            model_type,
            parameters,
            reused,
            ..
        } = self.0;
        let done = if *reused { "already imported" } else { "imported" };
        write!(f, "{done}: {kind} ({model_type}), {parameters} parameters")?;
        for change in converted {
            write!(f, "\n  changed  {change}")?;
        }
        write!(f, "\n  folder   {}", path.display())?;
        match address {
            Some(address) => write!(f, "\n  address  {address}\n  cache    {}", cache.display()),
            None => Ok(()),
        }
    }
}
