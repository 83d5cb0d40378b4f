//! What the verbs that take a recipe have in common.

use clap::{Args, ValueHint};

use super::Globals;
use crate::{
    config::Edit,
    error::RunError,
    executor::{self, Chosen},
    resolve::{self, Resolved},
    workspace::Workspace,
};

/// A recipe and its overrides.
#[derive(Debug, Args)]
pub(super) struct RecipeInput {
    /// Recipe file, or the name of a recipe
    #[arg(value_name = "RECIPE", value_hint = ValueHint::FilePath)]
    pub(super) recipe: String,
    /// Override a value, in order: `peft_scheme=none`, `finetune.optim.lr=1e-4`, `finetune.data.paths+=[b.json]`, `~finetune.peft`
    #[arg(long = "set", value_name = "PATH=VALUE", allow_hyphen_values = true)]
    pub(super) sets: Vec<String>,
}

impl RecipeInput {
    /// The run, with what the workspace has for all of them. Overrides of the executor are left to
    /// [`Self::executor`].
    pub(super) fn resolve(&self, workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
        let (_, sets) = self.split();
        resolve(&self.recipe, &sets, workspace)
    }

    /// The executor that is called `name`, with its overrides.
    pub(super) fn executor(&self, name: Option<&str>, workspace: Option<&Workspace>) -> Result<Chosen, RunError> {
        let (edits, _) = self.split();
        Ok(executor::choose(name, workspace, &edits)?)
    }

    /// Whether an override is one of the executor.
    pub(super) fn sets_executor(&self) -> bool {
        !self.split().0.is_empty()
    }

    /// Overrides of the executor, and the texts of those of the run. What cannot be read is left among these.
    pub(super) fn split(&self) -> (Vec<Edit>, Vec<&str>) {
        let (mut edits, mut sets) = (Vec::new(), Vec::new());
        for set in &self.sets {
            match Edit::parse(set) {
                Ok(edit) if executor::is_executors(&edit) => edits.push(edit),
                _ => sets.push(set.as_str()),
            }
        }
        (edits, sets)
    }
}

/// Resolves the recipe file or recipe `name`.
pub(super) fn resolve(name: &str, sets: &[&str], workspace: Option<&Workspace>) -> Result<Resolved, RunError> {
    let file = resolve::load(name)?;
    let file = match workspace {
        Some(workspace) => workspace.lay_under(file),
        None => file,
    };
    Ok(resolve::resolve(file, sets)?)
}

/// Where the ranks run.
#[derive(Debug, Args)]
pub(super) struct ExecutorArgs {
    /// Where the ranks run: `local`, the name of an executor in the workspace file, or an executor file. Its
    /// values are overridden with `--set executor...`
    #[arg(long, value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    pub(super) executor: Option<String>,
}

impl Globals {
    /// The workspace, the resolved run and its executor, warnings of both printed.
    pub(super) fn prepare(
        &self,
        input: &RecipeInput,
        executor: &ExecutorArgs,
        report: &mut super::Report,
    ) -> Result<(Option<Workspace>, Resolved, Chosen), RunError> {
        let workspace = self.workspace()?;
        let resolved = input.resolve(workspace.as_ref())?;
        report.warnings(&resolved.warnings);
        let chosen = input.executor(executor.executor.as_deref(), workspace.as_ref())?;
        report.warnings(&chosen.warnings);
        Ok((workspace, resolved, chosen))
    }
}
