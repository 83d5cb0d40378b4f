//! Resolves a recipe file and overrides to a typed, validated run.
//!
//! Order of precedence: the recipe's arguments are evaluated first, wherever they are written (top of the
//! file or `--set peft_scheme=none`); the recipe returns the graph for them; the file's `finetune` section
//! is merged over it; then each `--set finetune...` is applied, in order. So an argument changes everything that the
//! recipe derives from it, and an explicit override of the graph still wins.
//!
//! References (`${path}`) are followed last: arguments may refer to arguments, the graph to everything. An override
//! that computes with a reference or leads through it follows it at that moment. Calls (`optim.Lion(lr=1e-5)`) are made
//! as soon as they are written, so that a later override can change a part of their result. The sizes of the model that
//! `from_pretrained` names are filled in after all of that. They replace those of the recipe.

mod checkpoint_sizes;
mod no_effect;
mod recipe;
mod scope;

use std::{collections::BTreeSet, path};

use neva_schemas::{self as schemas, Finetune, RecipeArgs, Run, Severity, Validate as _};

pub use self::recipe::load;
pub(crate) use self::recipe::{load_or_suggest, unknown_word};
use self::{
    recipe::{find_recipe, misplaced},
    scope::Scope,
};
use crate::{
    adapters,
    config::{
        self, ConfigError, ENV, Entry, FACTORY, Factories, Map, Node, Origin, Override, Path, ProblemKind, Problems, Segment, Value,
        from_node, to_node,
    },
    environment,
    pretrained::{Pretrained, pretrained},
    program,
};

/// The key of the graph, and the first segment of paths into it.
pub(crate) const GRAPH: &str = "finetune";

/// A resolved, valid run.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The run.
    pub run: Run,
    /// The tree that it was read from: every value with its origin.
    pub tree: Node,
    /// Problems that do not stop the run.
    pub warnings: Vec<schemas::Problem>,
}

/// Options of [`resolve_with`].
#[derive(Debug, Clone)]
pub struct ResolveOptions {
    /// Functions that recipes may call by name.
    pub factories: Factories,
    /// The folder of files that a `--set` names.
    pub folder: path::PathBuf,
    /// Reads a variable of the environment. Called only for variables that the configuration lists.
    pub variable: fn(&str) -> Option<String>,
    /// Reads the sizes of the model at an address. Called only if `finetune.model.from_pretrained` names one and the
    /// configuration does not state all sizes.
    pub pretrained: fn(&str) -> Result<Pretrained, schemas::Problem>,
}

impl Default for ResolveOptions {
    /// Uses the factories of this program, the working directory and the environment of this process.
    fn default() -> Self {
        Self {
            factories: program::factories(),
            folder: path::PathBuf::new(),
            variable: environment::variable,
            pretrained,
        }
    }
}

/// Resolves the text of a recipe file and the `--set` texts, in order.
///
/// # Errors
/// All problems that one stage finds, each with the characters that caused it: overrides that cannot be parsed
/// or applied; an unknown recipe or argument; references to missing values; values of a wrong type; inconsistent
/// values.
pub fn resolve(file: Node, sets: &[impl AsRef<str>]) -> Result<Resolved, Problems> {
    resolve_with(file, sets, &ResolveOptions::default())
}

/// As [`resolve`], with options.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(file: Node, sets: &[impl AsRef<str>], options: &ResolveOptions) -> Result<Resolved, Problems> {
    let (argument_overrides, graph_overrides) = overrides(sets, options)?;
    let resolved = resolve_once(file.clone(), &argument_overrides, &graph_overrides, options)?;
    let no_effect = |at: usize| {
        let mut others = argument_overrides.clone();
        let over = others.remove(at);
        if is_file_override(&over) {
            return None;
        }
        let without = resolve_once(file.clone(), &others, &graph_overrides, options).ok()?;
        no_effect::error(&over, &resolved, &without)
    };
    Problems::check((0..argument_overrides.len()).filter_map(no_effect).collect())?;
    Ok(resolved)
}

/// Resolves the text of a recipe file and overrides, of arguments and of the graph.
fn resolve_once(
    file: Node,
    argument_overrides: &[Override],
    graph_overrides: &[Override],
    options: &ResolveOptions,
) -> Result<Resolved, Problems> {
    let mut scope = Scope {
        options,
        allowed: BTreeSet::new(),
    };
    let origin = file.origin.clone();
    let mut file = file;
    if !matches!(file.value, Value::Map(_) | Value::Null) {
        let reason = "a recipe file is a map: `_factory_`, arguments, `finetune`".to_owned();
        return Err(problem(Path::default(), Some(origin), ProblemKind::Syntax { reason, help: None }).into());
    }
    // The recipe comes first: an override may compute with a default argument of the recipe.
    let (file_overrides, argument_overrides): (Vec<_>, Vec<_>) = argument_overrides.iter().cloned().partition(is_file_override);
    scope.apply(&file_overrides, &mut file, |_| ())?;
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
    let recipe_name = recipe.map_or("custom", |recipe| recipe.name);
    let from_recipe = Origin::recipe(recipe_name);

    let defaults = recipe.map_or_else(RecipeArgs::default, |recipe| (recipe.default_args)());
    let mut arguments = to_node(&defaults, from_recipe.clone())?;
    config::merge(&mut arguments, Node::new(origin, Value::Map(top)));
    scope.apply(&argument_overrides, &mut arguments, |_| ())?;
    let mut arguments = scope
        .follow(&arguments, &arguments, &Path::default())
        .map_err(|problems| problems.map(reference_into_graph))?;
    Problems::check(config::leftover_deletions(&arguments))?;
    let args: RecipeArgs = config::build(&mut arguments, &options.factories).map_err(|problems| problems.map(misplaced))?;
    check(&arguments, args.problems(""))?;

    let mut graph = match recipe {
        Some(recipe) => to_node(&(recipe.finetune)(args.clone()), from_recipe.clone())?,
        None => recipe::graph_without_recipe(&args, &from_recipe)?,
    };
    forward_origins(&arguments, &mut graph);
    let key = overrides.as_ref().map_or(from_recipe, |entry| entry.key.clone());
    // A section that holds only comments is null, and overrides nothing.
    if let Some(mut overrides) = overrides.filter(|entry| !matches!(entry.node.value, Value::Null)) {
        config::drop_empty_sections::<Finetune>(&mut overrides.node, &graph);
        config::merge(&mut graph, overrides.node);
    }
    let mut tree = arguments;
    if let Value::Map(map) = &mut tree.value {
        map.insert(GRAPH.to_owned(), Entry { key, node: graph });
    }
    scope.apply(graph_overrides, &mut tree, |root| {
        // A call may lack arguments that a later override sets; the final build reports it.
        let _ = graph_mut(root).map(|graph| config::expand::<Finetune>(graph, &options.factories));
    })?;

    let mut finetune = scope.graph(&mut tree)?;
    if checkpoint_sizes::fill(&mut tree, &finetune, options.pretrained)? {
        finetune = scope.graph(&mut tree)?;
    }
    let run = Run::new(recipe_name, args, finetune);
    if let (Value::Map(map), Some(factory)) = (&mut tree.value, factory) {
        map.shift_insert(0, FACTORY.to_owned(), factory);
    }
    let notice = recipe
        .and_then(|recipe| recipe.notice)
        .map(|notice| schemas::Problem::warning(FACTORY, notice));
    let (errors, warnings) = notice
        .into_iter()
        .chain(adapters::problems(&run))
        .partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    Ok(Resolved { run, tree, warnings })
}

impl Resolved {
    /// Returns every value of the run, defaults too, with its origin and history.
    ///
    /// # Errors
    /// None for a resolved run.
    pub fn traced(&self) -> Result<Node, ConfigError> {
        let origin = Origin::recipe(&self.run.factory);
        Ok(config::trace(to_node(&self.run, origin)?, &self.tree))
    }
}

/// Parses `sets` into overrides of arguments and overrides of the graph.
fn overrides(sets: &[impl AsRef<str>], options: &ResolveOptions) -> Result<(Vec<Override>, Vec<Override>), Problems> {
    let (mut overrides, mut errors) = (Vec::new(), Vec::new());
    for set in sets {
        let parsed = Override::parse(set.as_ref()).and_then(|mut over| {
            if let Some(value) = over.value_mut() {
                config::include(value, &options.folder)?;
            }
            Ok(over)
        });
        match parsed {
            Ok(over) => overrides.push(over),
            Err(error) => errors.push(error),
        }
    }
    Problems::check(errors)?;
    Ok(overrides
        .into_iter()
        .partition(|over| over.path().0.first() != Some(&Segment::Key(GRAPH.to_owned()))))
}

/// Returns whether an override sets a key of the file itself rather than an argument.
fn is_file_override(over: &Override) -> bool {
    matches!(over.path().0.first(), Some(Segment::Key(key)) if key == FACTORY || key == ENV)
}

fn graph_mut(tree: &mut Node) -> Option<&mut Node> {
    tree.step_mut(&Segment::Key(GRAPH.to_owned()))
}

/// Prefixes the path of a problem of the graph with the graph's key.
fn in_graph(error: ConfigError) -> ConfigError {
    let mut error = error;
    error.path.0.insert(0, Segment::Key(GRAPH.to_owned()));
    error
}

/// Explains a reference from an argument to the graph, which the recipe derives from the arguments.
fn reference_into_graph(mut error: ConfigError) -> ConfigError {
    if matches!(&*error.problem, ProblemKind::UnknownField { name, .. } if name == GRAPH) {
        *error.problem = ProblemKind::Invalid {
            message: "an argument of the recipe cannot refer to the graph".to_owned(),
            help: Some("the recipe derives the graph from its arguments: let a value of the graph refer to the argument".to_owned()),
        };
    }
    error
}

/// Copies the origins of arguments to the values of the graph that the recipe forwards them to.
fn forward_origins(arguments: &Node, graph: &mut Node) {
    for (argument, path) in config::FORWARDED_ARGUMENTS {
        let Some(argument) = arguments.get(argument) else {
            continue;
        };
        let target = path.iter().try_fold(&mut *graph, |node, key| match &mut node.value {
            Value::Map(map) => map.get_mut(*key).map(|entry| &mut entry.node),
            _ => None,
        });
        if let Some(target) = target {
            target.copy_origin(argument);
        }
    }
}

/// Returns the problems of a typed value as an error, at the origins of the values. Secrets are reported first, alone and
/// without an origin: a report with an origin would quote them.
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

fn problem(path: Path, origin: Option<Origin>, problem: ProblemKind) -> ConfigError {
    ConfigError {
        path,
        origin,
        problem: Box::new(problem),
    }
}
