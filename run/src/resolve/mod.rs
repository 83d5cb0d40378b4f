//! From what a user wrote to a typed, validated run.
//!
//! Order of precedence: the recipe's arguments are evaluated first, wherever they are written (top of the
//! file or `--set peft_scheme=none`); the recipe returns the graph for them; the file's `finetune` section
//! is laid over it; then each `--set finetune...`, in order. So an argument changes everything that the
//! recipe derives from it, and an explicit override of the graph still wins.
//!
//! References (`${path}`) are followed when all of that is done: those of arguments among the arguments, those of
//! the graph everywhere. An edit that computes with a value or leads through it follows what it meets at that
//! moment. Calls (`optim.Lion(lr=1e-5)`) are made as soon as they are written, so that a later edit can change a
//! part of what they return.

mod recipe;
mod scope;

use std::{collections::BTreeSet, path};

use neva_schemas::{self as schemas, Finetune, RecipeArgs, Run, Severity, Validate as _};

pub use self::recipe::load;
pub(crate) use self::recipe::unknown_word;
use self::{
    recipe::{find_recipe, misplaced},
    scope::Scope,
};
use crate::{
    adapters,
    config::{
        self, ConfigError, ENV, Edit, Entry, FACTORY, Factories, Map, Node, Origin, Path, Problem, Problems, Segment, Value, from_node,
        to_node,
    },
    environment,
};

/// The key of the graph, and the first part of the paths that lead into it.
pub(crate) const GRAPH: &str = "finetune";

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

/// What resolving needs beside the texts.
#[derive(Debug, Clone)]
pub struct ResolveOptions {
    /// What names and calls stand for, where the type admits one.
    pub factories: Factories,
    /// Where files are looked for that a `--set` names.
    pub folder: path::PathBuf,
    /// Reads a variable of the environment. Asked for those only that the configuration lists.
    pub variable: fn(&str) -> Option<String>,
}

impl Default for ResolveOptions {
    /// The built-in factories, the working directory, and the environment of this process.
    fn default() -> Self {
        Self {
            factories: Factories::builtin(),
            folder: path::PathBuf::new(),
            variable: environment::variable,
        }
    }
}

/// Resolves the text of a recipe file and the `--set` texts, in order.
///
/// # Errors
/// All problems that one stage finds, each with the characters that caused it: edits that cannot be read
/// or applied; an unknown recipe or argument; references that lead nowhere; values of a wrong type; values that do
/// not fit together.
pub fn resolve(file: Node, sets: &[impl AsRef<str>]) -> Result<Resolved, Problems> {
    resolve_with(file, sets, &ResolveOptions::default())
}

/// As [`resolve`], with factories of one's own.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(file: Node, sets: &[impl AsRef<str>], options: &ResolveOptions) -> Result<Resolved, Problems> {
    let (argument_edits, graph_edits) = edits(sets, options)?;
    let mut scope = Scope {
        options,
        allowed: BTreeSet::new(),
    };
    let origin = file.origin.clone();
    let mut file = file;
    if !matches!(file.value, Value::Map(_) | Value::Null) {
        let reason = "a recipe file is a map: `_factory_`, arguments, `finetune`".to_owned();
        return Err(problem(Path::default(), Some(origin), Problem::Syntax { reason, help: None }).into());
    }
    // Which recipe it is comes first: an edit may compute with an argument that is left to the recipe.
    let (own_edits, argument_edits): (Vec<_>, Vec<_>) = argument_edits.into_iter().partition(is_of_the_file);
    scope.apply(&own_edits, &mut file, |_| ())?;
    let mut top = match file.value {
        Value::Map(map) => map,
        _ => Map::new(),
    };
    let overrides = top.shift_remove(GRAPH);
    let factory = top.shift_remove(FACTORY);
    if let Some(entry) = top.shift_remove(ENV) {
        scope.allowed = from_node(&entry.node).map_err(|error| error.within(Segment::Key(ENV.to_owned()), &entry.node.origin))?;
    }
    let recipe = find_recipe(factory.as_ref(), &origin)?;
    let from_recipe = Origin::recipe(recipe.name);

    let mut arguments = to_node(&(recipe.default_args)(), from_recipe.clone())?;
    config::merge(&mut arguments, Node::new(origin, Value::Map(top)));
    scope.apply(&argument_edits, &mut arguments, |_| ())?;
    let mut arguments = scope
        .follow(&arguments, &arguments, &Path::default())
        .map_err(|problems| problems.map(into_graph))?;
    Problems::check(config::leftover_deletions(&arguments))?;
    let args: RecipeArgs =
        config::build(&mut arguments, &options.factories).map_err(|problems| problems.map(|error| misplaced(error, recipe)))?;
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
    scope.apply(&graph_edits, &mut tree, |root| {
        // A call whose arguments are still to be written cannot be made yet; in the end it is told.
        let _ = graph_mut(root).map(|graph| config::expand::<Finetune>(graph, &options.factories));
    })?;

    let finetune = scope.graph(&mut tree)?;
    let run = Run::new(recipe.name, args, finetune);
    if let (Value::Map(map), Some(factory)) = (&mut tree.value, factory) {
        map.shift_insert(0, FACTORY.to_owned(), factory);
    }
    let notice = recipe.notice.map(|notice| schemas::Problem::warning(FACTORY, notice));
    let (errors, warnings) = notice
        .into_iter()
        .chain(adapters::problems(&run))
        .partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    Ok(Resolved { run, tree, warnings })
}

impl Resolved {
    /// Every value of the run, those left to their defaults too, with the place where it was written and what it
    /// was before.
    ///
    /// # Errors
    /// None for a run that was resolved.
    pub fn traced(&self) -> Result<Node, ConfigError> {
        let origin = Origin::recipe(&self.run.factory);
        Ok(config::trace(to_node(&self.run, origin)?, &self.tree))
    }
}

/// The edits of arguments and those of the graph.
fn edits(sets: &[impl AsRef<str>], options: &ResolveOptions) -> Result<(Vec<Edit>, Vec<Edit>), Problems> {
    let (mut edits, mut errors) = (Vec::new(), Vec::new());
    for set in sets {
        let edit = Edit::parse(set.as_ref()).and_then(|mut edit| {
            if let Some(value) = edit.value_mut() {
                config::include(value, &options.folder)?;
            }
            Ok(edit)
        });
        match edit {
            Ok(edit) => edits.push(edit),
            Err(error) => errors.push(error),
        }
    }
    Problems::check(errors)?;
    Ok(edits
        .into_iter()
        .partition(|edit| edit.path().0.first() != Some(&Segment::Key(GRAPH.to_owned()))))
}

/// Whether an edit says what the file is, rather than what an argument is.
fn is_of_the_file(edit: &Edit) -> bool {
    matches!(edit.path().0.first(), Some(Segment::Key(key)) if key == FACTORY || key == ENV)
}

fn graph_mut(tree: &mut Node) -> Option<&mut Node> {
    tree.step_mut(&Segment::Key(GRAPH.to_owned()))
}

/// A problem of the graph, with the path that the user knows.
fn in_graph(error: ConfigError) -> ConfigError {
    let mut error = error;
    error.path.0.insert(0, Segment::Key(GRAPH.to_owned()));
    error
}

/// A reference of an argument to the graph, which is made of the arguments.
fn into_graph(mut error: ConfigError) -> ConfigError {
    if matches!(&*error.problem, Problem::UnknownField { name, .. } if name == GRAPH) {
        *error.problem = Problem::Invalid {
            message: "an argument of the recipe cannot refer to the graph".to_owned(),
            help: Some("the recipe makes the graph of its arguments: let a value of the graph refer to the argument".to_owned()),
        };
    }
    error
}

/// Values that the recipe took from its arguments were written where the arguments were.
fn hand_on_origins(arguments: &Node, graph: &mut Node) {
    for (argument, path) in HANDED_ON {
        let Some(argument) = arguments.get(argument) else {
            continue;
        };
        let target = path.iter().try_fold(&mut *graph, |node, key| match &mut node.value {
            Value::Map(map) => map.get_mut(*key).map(|entry| &mut entry.node),
            _ => None,
        });
        if let Some(target) = target {
            target.placed_as(argument);
        }
    }
}

/// The problems of a typed value, where they were written. Secrets come first and alone, and without a place:
/// the lines that show one would quote them.
pub(crate) fn check(tree: &Node, problems: Vec<schemas::Problem>) -> Result<(), Problems> {
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
