//! `neva-run recipes`: the built-in recipes.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use neva_recipes::{RECIPES, RecipeEntry};
use serde_json::json;

use super::{OutputArgs, export::write_file, report::Report};
use crate::{
    config::{ConfigError, ProblemKind},
    error::RunError,
};

const EXAMPLES: &str = "\
Examples:
  neva-run recipes                              list the recipes
  neva-run recipes copy llava15_7b mine.yaml    start a recipe file of your own
  neva-run recipes copy neva_tiny -             print a recipe";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RecipesArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the recipes; `list` may be omitted
    List,
    /// Copy a recipe to a file, with comments
    Copy(CopyArgs),
}

#[derive(Debug, Args)]
struct CopyArgs {
    /// Name of the recipe
    #[arg(value_name = "NAME")]
    name: String,
    /// File to write; `-` is standard output [default: NAME.yaml]
    #[arg(value_name = "DEST", value_hint = ValueHint::FilePath)]
    dest: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn recipes(args: &RecipesArgs, report: &mut Report) -> Result<(), RunError> {
    match &args.command {
        None | Some(Command::List) => list(report),
        Some(Command::Copy(args)) => return copy(args, report),
    }
    Ok(())
}

fn list(report: &mut Report) {
    let width = RECIPES.iter().map(|recipe| recipe.name.len()).max().unwrap_or_default();
    let lines: Vec<_> = RECIPES
        .iter()
        .map(|recipe| format!("{:<width$}  {}", recipe.name, recipe.summary))
        .collect();
    let values: Vec<_> = RECIPES
        .iter()
        .map(|recipe| {
            json!({
                "name": recipe.name,
                "summary": recipe.summary,
                "notice": recipe.notice,
                "default_args": (recipe.default_args)(),
            })
        })
        .collect();
    report.result(lines.join("\n"), &values);
}

fn copy(args: &CopyArgs, report: &mut Report) -> Result<(), RunError> {
    let recipe = neva_recipes::find(&args.name).ok_or_else(|| unknown(&args.name))?;
    let dest = args.dest.clone().unwrap_or_else(|| format!("{}.yaml", recipe.name).into());
    let text = file_for(recipe, &dest);
    if dest.as_os_str() == "-" {
        report.result(text.trim_end(), &json!({ "text": text }));
        return Ok(());
    }
    write_file(&dest, &text, args.yes)?;
    report.result(format_args!("wrote {}", dest.display()), &json!({ "written": dest }));
    Ok(())
}

/// Returns the recipe's file for `dest`: the schema path is relative to it, and the commands in comments use its name.
fn file_for(recipe: &RecipeEntry, dest: &Path) -> String {
    let text = recipe.yaml.replacen("$schema=../schemas/json/", "$schema=", 1);
    let dest = dest.display().to_string();
    let name = if dest == "-" { recipe.name } else { &dest };
    let text = text.replace(&format!("recipes/{}.yaml", recipe.name), name);
    let first = text.find('\n').map_or(0, |end| end + 1);
    let (schema, rest) = text.split_at(first);
    format!("{schema}# (For completion in an editor: neva-run schema recipe --write .)\n{rest}")
}

fn unknown(name: &str) -> ConfigError {
    ConfigError {
        path: Default::default(),
        origin: None,
        problem: Box::new(ProblemKind::UnknownVariant {
            name: name.to_owned(),
            allowed: RECIPES.iter().map(|recipe| recipe.name.to_owned()).collect(),
        }),
    }
}
