//! Resolution of an experiment file to a typed, validated experiment: resolves recipes and expands sweeps.

mod task_resolver;

use std::collections::BTreeMap;

use indexmap::IndexMap;
use neva_schemas::{self as schemas, Dependency, Severity, Validate as _};

pub(crate) use self::task_resolver::recipe_paths;
use self::task_resolver::{Resolver, recipe_override};
use crate::{
    config::{self, ConfigError, Map, Node, Path, ProblemKind, Problems, Segment, Value, from_node},
    resolve::{Resolved, check},
    sweep::Sweep,
    workspace::Workspace,
};

const TASKS: &str = "tasks";

/// A validated experiment.
#[derive(Debug, Clone)]
pub struct ResolvedExperiment {
    /// The experiment.
    pub experiment: schemas::ExperimentConfig,
    /// Problems that do not stop it.
    pub warnings: Vec<schemas::Problem>,
}

/// Returns true if a file is an experiment: it has `tasks` at the top level.
pub fn is_experiment(file: &Node) -> bool {
    file.get(TASKS).is_some()
}

/// Resolves an experiment file and the `--set` overrides, in order. Overrides of a task's recipe are applied after the
/// recipe's own.
///
/// # Errors
/// All problems that one stage finds, each with its source characters.
pub fn resolve_experiment(file: Node, sets: &[impl AsRef<str>], workspace: Option<&Workspace>) -> Result<ResolvedExperiment, Problems> {
    resolve_experiment_with(file, sets, workspace, &|_, _| Ok(Vec::new()))
}

/// Check of the files of a run; returns warnings. The executor is the task's own, if it names one.
pub(crate) type FileCheck<'a> = &'a dyn Fn(&Resolved, Option<&schemas::ExecutorConfig>) -> Result<Vec<schemas::Problem>, Problems>;

/// Like [`resolve_experiment`]; `check_files` checks the files of each task without dependencies. Files of other tasks
/// may be created by the tasks that they wait for.
///
/// # Errors
/// As [`resolve_experiment`], and the errors of `check_files`.
pub(crate) fn resolve_experiment_with(
    mut file: Node,
    sets: &[impl AsRef<str>],
    workspace: Option<&Workspace>,
    check_files: FileCheck<'_>,
) -> Result<ResolvedExperiment, Problems> {
    let texts: Vec<&str> = sets.iter().map(AsRef::as_ref).collect();
    let (inner, outer): (Vec<_>, Vec<_>) = texts.into_iter().partition(|text| recipe_override(&file, text).is_some());
    let inner: Vec<_> = inner.into_iter().filter_map(|text| recipe_override(&file, text)).collect();
    config::apply_overrides(&mut file, outer)?;
    let tree = file.clone();
    let origin = file.origin;
    let Value::Map(mut top) = file.value else {
        return Err(error(&[], "an experiment file is a map: `name`, `tasks`", &origin).into());
    };
    let written = top.shift_remove(TASKS);
    let head: schemas::ExperimentConfig = from_node(&Node::new(origin.clone(), Value::Map(top))).map_err(|mut error| {
        if let ProblemKind::UnknownField { allowed, .. } = &mut *error.problem {
            allowed.push(TASKS.to_owned());
        }
        error
    })?;
    let Some(tasks) = written.as_ref().and_then(|entry| entry.node.as_map()) else {
        let origin = written.map_or(origin, |entry| entry.node.origin);
        return Err(error(&[TASKS], "`tasks` is a map from names to tasks", &origin).into());
    };

    let mut resolver = Resolver {
        workspace,
        inner: &inner,
        check_files,
        has_parents: false,
        tasks: IndexMap::new(),
        points: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let mut errors = Vec::new();
    for (index, (name, entry)) in tasks.iter().enumerate() {
        // A member of a group waits for the parents of the other members.
        resolver.has_parents = (head.sequential && index > 0) || head.groups.values().flatten().any(|member| member == name);
        if let Err(problems) = resolver.task(name, &entry.node) {
            let problems = problems.map(|error| within(error, &[TASKS, name]));
            errors.extend(problems.errors().iter().cloned());
        }
    }
    Problems::check(errors)?;
    let Resolver {
        tasks, points, warnings, ..
    } = resolver;
    let experiment = schemas::ExperimentConfig { tasks, ..head };
    let experiment = expand_sweeps(experiment, &points);
    let (errors, more): (Vec<_>, Vec<_>) = experiment
        .problems("")
        .into_iter()
        .partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    // Warnings about recipes were collected when they were resolved.
    let more = more.into_iter().filter(|problem| !problem.path.contains(".task."));
    Ok(ResolvedExperiment {
        experiment,
        warnings: warnings.into_iter().chain(more).collect(),
    })
}

/// Returns an experiment with one task for each point of a sweep; `resolve` resolves the recipe with a point's overrides.
///
/// # Errors
/// The sweep is invalid, or a point does not resolve to a run.
pub(crate) fn sweep_experiment(
    sweep: &Sweep,
    resolve: impl Fn(&[String]) -> Result<Resolved, Problems>,
) -> Result<ResolvedExperiment, Problems> {
    let mut experiment = schemas::ExperimentConfig::default();
    let mut warnings = Vec::new();
    for (number, point) in sweep.points()?.into_iter().enumerate() {
        let resolved = resolve(&point.sets).map_err(|problems| point.at_sweep(problems))?;
        if number == 0 {
            experiment.name.clone_from(&resolved.run.name);
            warnings = resolved.warnings;
        }
        experiment.tasks.insert(point.name, resolved.run.into());
    }
    let errors: Vec<_> = experiment
        .problems("")
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .collect();
    check(&Node::new(config::Origin::Default, Value::Map(Map::new())), errors)?;
    Ok(ResolvedExperiment { experiment, warnings })
}

/// Replaces the name of a sweep in dependencies and groups by the names of all its tasks.
fn expand_sweeps(mut experiment: schemas::ExperimentConfig, points: &BTreeMap<String, Vec<String>>) -> schemas::ExperimentConfig {
    for task in experiment.tasks.values_mut() {
        let edges = std::mem::take(&mut task.depends_on)
            .into_iter()
            .flat_map(|edge| match points.get(&edge.task) {
                Some(names) => names.iter().map(|name| Dependency::when(edge.when, name)).collect(),
                None => vec![edge],
            });
        task.depends_on = edges.collect();
    }
    for members in experiment.groups.values_mut() {
        let names = std::mem::take(members)
            .into_iter()
            .flat_map(|name| points.get(&name).cloned().unwrap_or_else(|| vec![name]));
        *members = names.collect();
    }
    experiment
}

fn within(mut error: ConfigError, path: &[&str]) -> ConfigError {
    let segments = path.iter().map(|key| Segment::Key((*key).to_owned()));
    error.path.0.splice(0..0, segments);
    error
}

fn error(path: &[&str], message: &str, origin: &config::Origin) -> ConfigError {
    ConfigError {
        path: Path(path.iter().map(|key| Segment::Key((*key).to_owned())).collect()),
        origin: Some(origin.clone()),
        problem: Box::new(ProblemKind::Invalid {
            message: message.to_owned(),
            help: None,
        }),
    }
}
