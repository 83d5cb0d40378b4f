//! `neva-run recipes`: the recipes that come with this program.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use neva_recipes::{RECIPES, RecipeEntry};
use serde_json::json;

use super::{OutputArgs, export::write_file, report::Report};
use crate::{
    config::{ConfigError, Problem},
    error::RunError,
};

const EXAMPLES: &str = "\
Examples:
  neva-run recipes                              what there is
  neva-run recipes copy llava15_7b mine.yaml    begin a file of your own
  neva-run recipes copy neva_tiny -             print it";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub(super) struct RecipesArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them; the word `list` may be left out
    List,
    /// Write the commented file of one
    Copy(CopyArgs),
}

#[derive(Debug, Args)]
struct CopyArgs {
    /// Name of the recipe
    #[arg(value_name = "NAME")]
    name: String,
    /// File to write, `NAME.yaml` if left out; `-` is standard output
    #[arg(value_name = "DEST", value_hint = ValueHint::FilePath)]
    dest: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn recipes(args: &RecipesArgs, report: &mut Report) -> Result<(), RunError> {
    match &args.action {
        None | Some(Action::List) => list(report),
        Some(Action::Copy(args)) => return copy(args, report),
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
        .map(|recipe| json!({ "name": recipe.name, "summary": recipe.summary, "notice": recipe.notice, "default_args": (recipe.default_args)() }))
        .collect();
    report.result(lines.join("\n"), &values);
}

fn copy(args: &CopyArgs, report: &mut Report) -> Result<(), RunError> {
    let recipe = neva_recipes::find(&args.name).ok_or_else(|| unknown(&args.name))?;
    let dest = args.dest.clone().unwrap_or_else(|| format!("{}.yaml", recipe.name).into());
    let text = own_copy(recipe, &dest);
    if dest.as_os_str() == "-" {
        report.result(text.trim_end(), &json!({ "text": text }));
        return Ok(());
    }
    write_file(&dest, &text, args.yes)?;
    report.result(format_args!("wrote {}", dest.display()), &json!({ "written": dest }));
    Ok(())
}

/// The recipe's file as `dest`: the schema that editors complete by lies beside it, and the lines on how to run it
/// name it.
fn own_copy(recipe: &RecipeEntry, dest: &Path) -> String {
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
        problem: Box::new(Problem::UnknownVariant {
            name: name.to_owned(),
            allowed: RECIPES.iter().map(|recipe| recipe.name.to_owned()).collect(),
        }),
    }
}
