//! `neva-run recipes`: the recipes that come with this program.

use clap::Args;
use neva_recipes::RECIPES;
use serde_json::json;

use super::{OutputArgs, report::Report};
use crate::error::RunError;

#[derive(Debug, Args)]
pub(super) struct RecipesArgs {
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn recipes(report: &mut Report) -> Result<(), RunError> {
    let width = RECIPES.iter().map(|recipe| recipe.name.len()).max().unwrap_or_default();
    let lines: Vec<_> = RECIPES
        .iter()
        .map(|recipe| format!("{:<width$}  {}", recipe.name, recipe.summary))
        .collect();
    let values: Vec<_> = RECIPES
        .iter()
        .map(|recipe| json!({ "name": recipe.name, "summary": recipe.summary, "notice": recipe.notice, "default_args": (recipe.default_args)() }))
        .collect();
    report.result(lines.join("\n"), &values);
    Ok(())
}
