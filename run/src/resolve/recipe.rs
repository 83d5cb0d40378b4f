//! Finds the recipe that the command line or a file names.

use std::path;

use neva_recipes::{RECIPES, RecipeEntry};
use neva_schemas::RecipeArgs;

use super::{GRAPH, problem};
use crate::config::{self, ConfigError, Entry, FACTORY, Map, Node, Origin, Path, ProblemKind, Segment, Source, Value, to_node};

/// Reads the RECIPE of the command line: a file, the folder of a run or a checkpoint, or else a recipe with its default
/// arguments.
///
/// # Errors
/// A file that cannot be read or is not YAML; a word that is neither a file nor a recipe.
pub fn load(recipe: &str) -> Result<Node, ConfigError> {
    load_or_suggest(recipe, &[])
}

/// As [`load`], with `others` as further suggestions for an unknown word.
pub(crate) fn load_or_suggest(recipe: &str, others: &[String]) -> Result<Node, ConfigError> {
    if let Some(unknown) = unknown_word(recipe, others) {
        return Err(unknown);
    }
    match neva_recipes::find(recipe) {
        Some(entry) if is_word(recipe) => config::parse(&Source::new(recipe, format!("{FACTORY}: {}\n", entry.name))),
        _ => config::load(path::Path::new(recipe)),
    }
}

/// Returns true if `recipe` can only be a name: it does not look like a path, and there is neither a file nor the folder
/// of a run of that name.
fn is_word(recipe: &str) -> bool {
    let path = path::Path::new(recipe);
    let is_folder_only = || neva_recipes::find(recipe).is_some() && path.is_dir() && config::file_in(path).is_none();
    !recipe.contains(['/', '.']) && (!path.exists() || is_folder_only())
}

/// Returns the problem of a word that is neither a file nor a recipe; `others` are further suggestions.
pub(crate) fn unknown_word(word: &str, others: &[String]) -> Option<ConfigError> {
    (is_word(word) && neva_recipes::find(word).is_none()).then(|| {
        let recipes = RECIPES.iter().map(|recipe| recipe.name.to_owned());
        let name = word.to_owned();
        let allowed = recipes.chain(others.iter().cloned()).collect();
        problem(Path::default(), None, ProblemKind::UnknownVariant { name, allowed })
    })
}

/// Recipe name in the record of a run that was built in Rust.
const CUSTOM: &str = "custom";

/// Returns the recipe that a file names; `None` for the record of a run without a recipe, whose graph is complete.
pub(super) fn find_recipe(factory: Option<&Entry>, origin: &Origin) -> Result<Option<&'static RecipeEntry>, ConfigError> {
    let allowed = || RECIPES.iter().map(|recipe| recipe.name.to_owned()).collect::<Vec<_>>();
    let path = Path(vec![Segment::Key(FACTORY.to_owned())]);
    let Some(factory) = factory else {
        let message = "the file names no recipe".to_owned();
        let help = Some(format!("add `{FACTORY}:` with one of {}", allowed().join(", ")));
        return Err(problem(path, Some(origin.clone()), ProblemKind::Invalid { message, help }));
    };
    let name = factory.node.as_text().unwrap_or_default();
    if name == CUSTOM {
        return Ok(None);
    }
    let by_python_name = || config::python_recipe(name).and_then(|name| neva_recipes::find(&name));
    neva_recipes::find(name).or_else(by_python_name).map(Some).ok_or_else(|| {
        problem(
            path,
            Some(factory.node.origin.clone()),
            ProblemKind::UnknownVariant {
                name: name.to_owned(),
                allowed: allowed(),
            },
        )
    })
}

/// Explains where a section of the graph belongs that was written among the arguments.
pub(super) fn misplaced(mut error: ConfigError) -> ConfigError {
    if let ProblemKind::UnknownField { name, allowed } = &mut *error.problem {
        // All graphs have the same sections.
        let recipe = &RECIPES[0];
        let graph = to_node(&(recipe.finetune)((recipe.default_args)()), Origin::recipe(recipe.name));
        if graph.is_ok_and(|graph| graph.get(name).is_some()) {
            let message = format!("`{name}` is not an argument of the recipe");
            let help = Some(format!(
                "it is part of the graph: write it under `{GRAPH}`, or `--set {GRAPH}.{name}...`"
            ));
            *error.problem = ProblemKind::Invalid { message, help };
        } else {
            allowed.push(GRAPH.to_owned());
        }
    }
    error
}

/// Returns the graph of a run without a recipe: the forwarded arguments, over which its record is merged.
pub(super) fn graph_without_recipe(args: &RecipeArgs, origin: &Origin) -> Result<Node, ConfigError> {
    let arguments = to_node(args, origin.clone())?;
    let entry = |node| Entry { key: origin.clone(), node };
    let mut graph = Map::new();
    for (argument, [section, field]) in config::FORWARDED_ARGUMENTS {
        let empty = || entry(Node::new(origin.clone(), Value::Map(Map::new())));
        let section = graph.entry((*section).to_owned()).or_insert_with(empty);
        if let (Some(value), Value::Map(fields)) = (arguments.get(argument), &mut section.node.value) {
            fields.insert((*field).to_owned(), entry(value.clone()));
        }
    }
    Ok(Node::new(origin.clone(), Value::Map(graph)))
}
