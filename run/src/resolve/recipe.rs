//! Which recipe is meant: on the command line, and in a file.

use std::path;

use neva_recipes::{RECIPES, RecipeEntry};

use super::{GRAPH, problem};
use crate::config::{self, ConfigError, Entry, FACTORY, Node, Origin, Path, Problem, Segment, Source, to_node};

/// Reads what the command line names as RECIPE: a file, or else a recipe with its default arguments.
///
/// # Errors
/// A file that cannot be read or is not YAML; a word that is neither file nor recipe.
pub fn load(recipe: &str) -> Result<Node, ConfigError> {
    if let Some(unknown) = unknown_word(recipe) {
        return Err(unknown);
    }
    match neva_recipes::find(recipe) {
        Some(entry) if is_word(recipe) => config::parse(&Source::new(recipe, format!("{FACTORY}: {}\n", entry.name))),
        _ => config::load(path::Path::new(recipe)),
    }
}

/// Whether `recipe` can be meant as a name only: nothing of it says file, and there is none.
fn is_word(recipe: &str) -> bool {
    !recipe.contains(['/', '.']) && !path::Path::new(recipe).exists()
}

/// What is wrong with a word that is neither file nor recipe. It may have been meant for a verb.
pub(crate) fn unknown_word(word: &str) -> Option<ConfigError> {
    (is_word(word) && neva_recipes::find(word).is_none()).then(|| {
        let recipes = RECIPES.iter().map(|recipe| recipe.name.to_owned());
        let name = word.to_owned();
        let allowed = recipes.chain(crate::cli::verbs()).collect();
        problem(Path::default(), None, Problem::UnknownVariant { name, allowed })
    })
}

pub(super) fn find_recipe(factory: Option<&Entry>, origin: &Origin) -> Result<&'static RecipeEntry, ConfigError> {
    let allowed = || RECIPES.iter().map(|recipe| recipe.name.to_owned()).collect::<Vec<_>>();
    let path = Path(vec![Segment::Key(FACTORY.to_owned())]);
    let Some(factory) = factory else {
        let message = "the file names no recipe".to_owned();
        let help = Some(format!("add `{FACTORY}:` with one of {}", allowed().join(", ")));
        return Err(problem(path, Some(origin.clone()), Problem::Invalid { message, help }));
    };
    let name = factory.node.as_text().unwrap_or_default();
    neva_recipes::find(name).ok_or_else(|| {
        problem(
            path,
            Some(factory.node.origin.clone()),
            Problem::UnknownVariant {
                name: name.to_owned(),
                allowed: allowed(),
            },
        )
    })
}

/// A part of the graph that was written among the arguments gets told where it belongs.
pub(super) fn misplaced(mut error: ConfigError, recipe: &RecipeEntry) -> ConfigError {
    if let Problem::UnknownField { name, allowed } = &mut *error.problem {
        let graph = to_node(&(recipe.finetune)((recipe.default_args)()), Origin::recipe(recipe.name));
        if graph.is_ok_and(|graph| graph.get(name).is_some()) {
            let message = format!("`{name}` is not an argument of the recipe");
            let help = Some(format!(
                "it is a part of the graph: write it under `{GRAPH}`, or `--set {GRAPH}.{name}...`"
            ));
            *error.problem = Problem::Invalid { message, help };
        } else {
            allowed.push(GRAPH.to_owned());
        }
    }
    error
}
