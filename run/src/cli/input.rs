//! Arguments shared by the subcommands that take a recipe.

use clap::{Args, ValueHint};

use super::{Globals, subcommand::subcommands};
use crate::{
    config::{Node, Override},
    error::RunError,
    executor::{self, SelectedExecutor},
    launch,
    preflight::Preflight,
    resolve::{self, Resolved},
    workspace::Workspace,
};

/// A recipe and its overrides.
#[derive(Debug, Args)]
pub(super) struct RecipeInput {
    /// Recipe file, name of a recipe, or folder of a run or a checkpoint to run again
    #[arg(value_name = "RECIPE", value_hint = ValueHint::FilePath)]
    pub(super) recipe: String,
    /// Override a value; may be repeated, applied in order: `peft_scheme=none`, `finetune.optim.lr=1e-4`,
    /// `finetune.data.paths+=[b.json]`, `~finetune.peft`
    #[arg(long = "set", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    pub(super) sets: Vec<String>,
}

impl RecipeInput {
    /// Resolves the run with the workspace's defaults, for a subcommand without an executor: its overrides are refused.
    pub(super) fn resolve(&self, workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
        if self.sets_executor() {
            let message = "nothing is started here, so no executor reads `--set executor...`: remove it, or use `run --dry-run`";
            return Err(RunError::Argument(message.to_owned()));
        }
        self.resolve_file(self.load()?, workspace)
    }

    /// Reads the recipe. Call it once: a pipe cannot be read again.
    pub(super) fn load(&self) -> Result<Node, RunError> {
        Ok(resolve::load_or_suggest(&self.recipe, &subcommands())?)
    }

    /// Like [`Self::resolve`], for a recipe that was read already.
    pub(super) fn resolve_file(&self, file: Node, workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
        let (_, sets) = self.split();
        resolve_file(file, &sets, workspace)
    }

    /// Returns the executor `name` with its overrides.
    pub(super) fn executor(&self, name: Option<&str>, workspace: Option<&Workspace>) -> Result<SelectedExecutor, RunError> {
        let (overrides, _) = self.split();
        Ok(executor::select(name, workspace, &overrides)?)
    }

    /// Returns true if an override belongs to the executor.
    pub(super) fn sets_executor(&self) -> bool {
        !self.split().0.is_empty()
    }

    /// Splits the overrides into those of the executor, parsed, and those of the run, as text. Invalid ones stay with
    /// the run.
    pub(super) fn split(&self) -> (Vec<Override>, Vec<&str>) {
        let (mut overrides, mut sets) = (Vec::new(), Vec::new());
        for set in &self.sets {
            match Override::parse(set) {
                Ok(parsed) if executor::is_executor_override(&parsed) => overrides.push(parsed),
                _ => sets.push(set.as_str()),
            }
        }
        (overrides, sets)
    }
}

/// Resolves the recipe file or recipe `name`.
pub(super) fn resolve(name: &str, sets: &[&str], workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
    resolve_file(resolve::load_or_suggest(name, &subcommands())?, sets, workspace)
}

fn resolve_file(file: Node, sets: &[&str], workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
    let file = match workspace {
        Some(workspace) => workspace.merge_under(file),
        None => file,
    };
    Ok(resolve::resolve(file, sets)?)
}

/// Executor of the ranks.
#[derive(Debug, Args)]
pub(super) struct ExecutorArgs {
    /// Executor of the ranks: `local`, `docker`, `slurm`, `kubernetes`, the name of an executor in the workspace file, or
    /// an executor file. Override its values with `--set executor...`
    #[arg(long, value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    pub(super) executor: Option<String>,
}

impl Globals {
    /// Returns the workspace, the resolved run and its executor, and prints the warnings of both.
    pub(super) fn prepare(
        &self,
        input: &RecipeInput,
        file: Node,
        executor: &ExecutorArgs,
        report: &mut super::Report,
    ) -> Result<(Option<Workspace>, Resolved, SelectedExecutor), RunError> {
        let workspace = self.workspace()?;
        let resolved = input.resolve_file(file, workspace.as_ref())?;
        report.warnings(&resolved.warnings);
        let selected = input.executor(executor.executor.as_deref(), workspace.as_ref())?;
        report.warnings(&selected.warnings);
        Ok((workspace, resolved, selected))
    }
}

/// Check of files before a run starts.
#[derive(Debug, Args)]
pub(super) struct PreflightArgs {
    /// Skip the check of the files that a run needs: data, tokenizer, model, checkpoints
    #[arg(long)]
    pub(super) no_preflight: bool,
}

impl PreflightArgs {
    /// Returns the file check for runs that start from this folder; `None` if it is disabled.
    pub(super) fn preflight(&self) -> Result<Option<Preflight>, RunError> {
        (!self.no_preflight)
            .then(|| Ok(Preflight::new(launch::current_directory()?)))
            .transpose()
    }
}
