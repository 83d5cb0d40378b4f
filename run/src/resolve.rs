//! From what a user wrote to a typed, validated run.
//!
//! Order of precedence: the recipe's arguments are evaluated first, wherever they are written (top of the
//! file or `--set peft_scheme=none`); the recipe returns the graph for them; the file's `finetune` section
//! is laid over it; then each `--set finetune...`, in order. So an argument changes everything that the
//! recipe derives from it, and an explicit override of the graph still wins.

use std::path;

use neva_recipes::{RECIPES, RecipeEntry};
use neva_schemas::{self as schemas, Finetune, RecipeArgs, Run, Severity, Validate as _};
use serde::Deserialize;

use crate::config::{
    self, ConfigError, Edit, Entry, Map, Node, Origin, Path, Problem, Problems, Segment, Source, Value, from_node, to_node,
};

const FACTORY: &str = "_factory_";
const GRAPH: &str = "finetune";

/// Arguments, and where a recipe hands them on to: a problem there is one of the argument.
const HANDED_ON: &[(&str, [&str; 2])] = &[
    ("dir", ["log", "log_dir"]),
    ("name", ["log", "name"]),
    ("num_nodes", ["trainer", "num_nodes"]),
    ("num_gpus_per_node", ["trainer", "devices"]),
];

/// A run that may start.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The run.
    pub run: Run,
    /// What it was read from: every value with the place where it was written.
    pub tree: Node,
    /// What does not stop it, but may not do what its author thinks.
    pub warnings: Vec<schemas::Problem>,
}

/// Reads what the command line names as RECIPE: a file, or else a recipe with its default arguments.
///
/// # Errors
/// A file that cannot be read or is not YAML; a word that is neither file nor recipe.
pub fn load(recipe: &str) -> Result<Node, ConfigError> {
    let file = path::Path::new(recipe);
    let is_word = !recipe.contains(['/', '.']) && !file.exists();
    match neva_recipes::find(recipe) {
        Some(entry) if is_word => config::parse(&Source::new(recipe, format!("{FACTORY}: {}\n", entry.name))),
        None if is_word => {
            let verbs = crate::cli::VERBS.iter().copied();
            let allowed = RECIPES.iter().map(|recipe| recipe.name).chain(verbs).map(str::to_owned).collect();
            Err(problem(
                Path::default(),
                None,
                Problem::UnknownVariant {
                    name: recipe.to_owned(),
                    allowed,
                },
            ))
        }
        _ => config::read(file),
    }
}

/// Resolves the text of a recipe file and the `--set` texts, in order.
///
/// # Errors
/// All problems that one stage finds, each with the characters that caused it: edits that cannot be read
/// or applied; an unknown recipe or argument; values of a wrong type; values that do not fit together.
pub fn resolve(file: Node, sets: &[impl AsRef<str>]) -> Result<Resolved, Problems> {
    let (argument_edits, graph_edits) = edits(sets)?;
    let mut file = file;
    apply(&argument_edits, &mut file)?;
    let origin = file.origin.clone();
    let mut top = match file.value {
        Value::Map(map) => map,
        Value::Null => Map::new(),
        _ => {
            let reason = "a recipe file is a map: `_factory_`, arguments, `finetune`".to_owned();
            return Err(problem(Path::default(), Some(origin), Problem::Syntax { reason, help: None }).into());
        }
    };
    let overrides = top.shift_remove(GRAPH);
    let factory = top.shift_remove(FACTORY);
    let recipe = find_recipe(factory.as_ref(), &origin)?;
    let from_recipe = Origin::recipe(recipe.name);

    let mut arguments = to_node(&(recipe.default_args)(), from_recipe.clone())?;
    config::merge(&mut arguments, Node::new(origin, Value::Map(top)));
    let args: RecipeArgs = from_node(&arguments).map_err(|error| misplaced(error, recipe))?;
    check(&arguments, args.problems(""))?;

    let mut graph = to_node(&(recipe.finetune)(args.clone()), from_recipe.clone())?;
    hand_on_origins(&arguments, &mut graph);
    let key = overrides.as_ref().map_or(from_recipe, |entry| entry.key.clone());
    // A section whose lines are all comments is null, and overrides nothing.
    if let Some(overrides) = overrides.filter(|entry| !matches!(entry.node.value, Value::Null)) {
        config::merge(&mut graph, overrides.node);
    }
    let mut tree = arguments;
    if let Value::Map(map) = &mut tree.value {
        map.insert(GRAPH.to_owned(), Entry { key, node: graph });
    }
    apply(&graph_edits, &mut tree)?;

    let finetune = typed_graph(&tree)?;
    let run = Run::new(recipe.name, args, finetune);
    let notice = recipe.notice.map(|notice| schemas::Problem::warning(FACTORY, notice));
    let (errors, warnings) = notice
        .into_iter()
        .chain(run.problems(""))
        .partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    Ok(Resolved { run, tree, warnings })
}

/// The edits of arguments and those of the graph.
fn edits(sets: &[impl AsRef<str>]) -> Result<(Vec<Edit>, Vec<Edit>), Problems> {
    let (mut edits, mut errors) = (Vec::new(), Vec::new());
    for set in sets {
        match Edit::parse(set.as_ref()) {
            Ok(edit) => edits.push(edit),
            Err(error) => errors.push(error),
        }
    }
    Problems::check(errors)?;
    Ok(edits
        .into_iter()
        .partition(|edit| edit.path().0.first() != Some(&Segment::Key(GRAPH.to_owned()))))
}

fn apply(edits: &[Edit], root: &mut Node) -> Result<(), Problems> {
    Problems::check(edits.iter().filter_map(|edit| edit.apply(root).err()).collect())
}

fn find_recipe(factory: Option<&Entry>, origin: &Origin) -> Result<&'static RecipeEntry, ConfigError> {
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
fn misplaced(mut error: ConfigError, recipe: &RecipeEntry) -> ConfigError {
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

/// Values that the recipe took from its arguments were written where the arguments were.
fn hand_on_origins(arguments: &Node, graph: &mut Node) {
    for (argument, path) in HANDED_ON {
        let Some(origin) = arguments.get(argument).map(|node| &node.origin) else {
            continue;
        };
        let target = path.iter().try_fold(&mut *graph, |node, key| match &mut node.value {
            Value::Map(map) => map.get_mut(*key).map(|entry| &mut entry.node),
            _ => None,
        });
        if let Some(target) = target {
            target.origin = origin.clone();
        }
    }
}

fn typed_graph(tree: &Node) -> Result<Finetune, ConfigError> {
    /// Gives errors the path that the user knows, which starts with `finetune`.
    #[derive(Deserialize)]
    struct Top {
        finetune: Finetune,
    }
    let graph = tree.as_map().and_then(|map| map.get_key_value(GRAPH));
    let top = graph.map(|(key, entry)| (key.clone(), entry.clone())).into_iter().collect();
    from_node::<Top>(&Node::new(tree.origin.clone(), Value::Map(top))).map(|top| top.finetune)
}

/// The problems of a typed value, where they were written. Secrets come first and alone, and without a place:
/// the lines that show one would quote them.
fn check(tree: &Node, problems: Vec<schemas::Problem>) -> Result<(), Problems> {
    let (secrets, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| problem.secret);
    let located = |problem: schemas::Problem| ConfigError::invalid(tree, &problem.path, problem.message, problem.help);
    let unlocated = |problem| ConfigError {
        origin: None,
        ..located(problem)
    };
    Problems::check(secrets.into_iter().map(unlocated).collect())?;
    Problems::check(others.into_iter().map(located).collect())
}

fn problem(path: Path, origin: Option<Origin>, problem: Problem) -> ConfigError {
    ConfigError {
        path,
        origin,
        problem: Box::new(problem),
    }
}
