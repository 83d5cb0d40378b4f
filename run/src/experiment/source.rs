//! From the text of an experiment file to a typed, validated experiment: recipes are resolved, sweeps spread out.

use std::{collections::BTreeMap, path};

use indexmap::IndexMap;
use neva_schemas::{self as schemas, Dependency, Severity, Task, Validate as _, Work};
use serde::Deserialize;

use crate::{
    config::{self, ConfigError, Edit, Entry, FACTORY, Map, Node, Path, Problem, Problems, Segment, TARGET, Value, from_node, to_node},
    executor,
    resolve::{self, Resolved, check},
    sweep::{Point, Sweep},
    workspace::Workspace,
};

const TASKS: &str = "tasks";
const TASK: &str = "task";
const EXECUTOR: &str = "executor";
const SWEEP: &str = "sweep";
const RECIPE: &str = "recipe";
const SET: &str = "set";

/// An experiment that may start.
#[derive(Debug, Clone)]
pub struct ResolvedExperiment {
    /// The experiment.
    pub experiment: schemas::Experiment,
    /// What does not stop it, but may not do what its author thinks.
    pub warnings: Vec<schemas::Problem>,
}

/// Whether a file is an experiment: its top has `tasks`.
pub fn is_experiment(file: &Node) -> bool {
    file.get(TASKS).is_some()
}

/// Resolves the text of an experiment file and the `--set` texts, in order. Those that lead into a recipe go behind
/// its own.
///
/// # Errors
/// All problems that one stage finds, each with the characters that caused it.
pub fn resolve_experiment(mut file: Node, sets: &[impl AsRef<str>], workspace: Option<&Workspace>) -> Result<ResolvedExperiment, Problems> {
    let texts: Vec<&str> = sets.iter().map(AsRef::as_ref).collect();
    let (inner, outer): (Vec<_>, Vec<_>) = texts.into_iter().partition(|text| recipe_of(&file, text).is_some());
    let inner: Vec<_> = inner.into_iter().filter_map(|text| recipe_of(&file, text)).collect();
    config::apply_edits(&mut file, outer)?;
    let tree = file.clone();
    let origin = file.origin;
    let Value::Map(mut top) = file.value else {
        return Err(error(&[], "an experiment file is a map: `name`, `tasks`", &origin).into());
    };
    let written = top.shift_remove(TASKS);
    let head: schemas::Experiment = from_node(&Node::new(origin.clone(), Value::Map(top))).map_err(|mut error| {
        if let Problem::UnknownField { allowed, .. } = &mut *error.problem {
            allowed.push(TASKS.to_owned());
        }
        error
    })?;
    let Some(tasks) = written.as_ref().and_then(|entry| entry.node.as_map()) else {
        let origin = written.map_or(origin, |entry| entry.node.origin);
        return Err(error(&[TASKS], "`tasks` is a map: the name of each task, and what it is", &origin).into());
    };

    let mut resolver = Resolver {
        workspace,
        inner: &inner,
        tasks: IndexMap::new(),
        points: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let mut errors = Vec::new();
    for (name, entry) in tasks {
        if let Err(problems) = resolver.task(name, &entry.node) {
            let problems = problems.map(|error| within(error, &[TASKS, name]));
            errors.extend(problems.errors().iter().cloned());
        }
    }
    Problems::check(errors)?;
    let Resolver {
        tasks, points, warnings, ..
    } = resolver;
    let experiment = schemas::Experiment { tasks, ..head };
    let experiment = spread(experiment, &points);
    let (errors, more): (Vec<_>, Vec<_>) = experiment
        .problems("")
        .into_iter()
        .partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    // Those of the recipes were found when they were resolved.
    let more = more.into_iter().filter(|problem| !problem.path.contains(".task."));
    Ok(ResolvedExperiment {
        experiment,
        warnings: warnings.into_iter().chain(more).collect(),
    })
}

/// The experiment of one task for each point of a sweep over the recipe that `resolve` resolves.
///
/// # Errors
/// A sweep that makes no sense, or a point that is no run.
pub(crate) fn sweep_experiment(
    sweep: &Sweep,
    resolve: impl Fn(&[String]) -> Result<Resolved, Problems>,
) -> Result<ResolvedExperiment, Problems> {
    let mut experiment = schemas::Experiment::default();
    let mut warnings = Vec::new();
    for (number, point) in sweep.points()?.into_iter().enumerate() {
        let resolved = resolve(&point.sets).map_err(|problems| point.placed(problems))?;
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

/// The task and the override of its recipe that `text` is, where it is one: `tasks.train.task.finetune...`.
fn recipe_of(file: &Node, text: &str) -> Option<(String, String)> {
    let path = Edit::parse(text).ok()?.path();
    let [Segment::Key(tasks), Segment::Key(name), Segment::Key(task), rest @ ..] = path.0.as_slice() else {
        return None;
    };
    let body = file.get(TASKS)?.get(name)?.get(TASK)?;
    if tasks != TASKS || task != TASK || rest.is_empty() || !is_recipe(body) {
        return None;
    }
    // Of a recipe file, its name and its overrides are the experiment's.
    if body.get(RECIPE).is_some() && matches!(&rest[0], Segment::Key(key) if key == RECIPE || key == SET) {
        return None;
    }
    let rest = Path(rest.to_vec());
    let (tilde, body) = text.strip_prefix('~').map_or(("", text), |body| ("~", body));
    let ends = body.match_indices('.').map(|(at, _)| format!("{tilde}{}", &body[at + 1..]));
    let mut ends = ends.filter(|end| Edit::parse(end).is_ok_and(|edit| edit.path() == rest));
    Some((name.clone(), ends.next()?))
}

fn is_recipe(task: &Node) -> bool {
    (task.get(FACTORY).is_some() || task.get(RECIPE).is_some()) && task.get(TARGET).is_none()
}

struct Resolver<'a> {
    workspace: Option<&'a Workspace>,
    /// Overrides from the command line, by task.
    inner: &'a [(String, String)],
    tasks: IndexMap<String, Task>,
    /// The tasks that a sweep became.
    points: BTreeMap<String, Vec<String>>,
    warnings: Vec<schemas::Problem>,
}

impl Resolver<'_> {
    /// Resolves the task `name`: one, or one for each point of its sweep.
    fn task(&mut self, name: &str, node: &Node) -> Result<(), Problems> {
        let Some(mut map) = node.as_map().cloned() else {
            return Err(error(&[], "a task is a map: `task`, `executor`, `depends_on`, `sweep`", &node.origin).into());
        };
        let sweep = map.shift_remove(SWEEP);
        if let Some(Entry { node, .. }) = map.get_mut(EXECUTOR) {
            self.executor(node)?;
        }
        let points = match &sweep {
            Some(entry) => {
                let points = Sweep::of(&entry.node).and_then(|sweep| sweep.points());
                points.map_err(|error| within(error, &[SWEEP]))?
            }
            None => vec![Point::default()],
        };
        for point in points {
            let task = self
                .point(name, &map, node, &point.sets)
                .map_err(|problems| point.placed(problems))?;
            let full = if sweep.is_some() {
                format!("{name}-{}", point.name)
            } else {
                name.to_owned()
            };
            if sweep.is_some() {
                self.points.entry(name.to_owned()).or_default().push(full.clone());
            }
            self.tasks.insert(full, task);
        }
        Ok(())
    }

    /// The task that `map` describes, with the overrides of one point.
    fn point(&mut self, name: &str, map: &Map, node: &Node, sets: &[String]) -> Result<Task, Problems> {
        /// A task without what it does.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Place {
            #[serde(default)]
            executor: Option<schemas::Executor>,
            #[serde(default)]
            depends_on: Vec<Dependency>,
        }
        let mut map = map.clone();
        let recipe = map.get(TASK).filter(|entry| is_recipe(&entry.node)).map(|entry| entry.node.clone());
        let Some(recipe) = recipe else {
            if let Some(Entry { node, .. }) = map.get_mut(TASK) {
                config::apply_edits(node, sets.iter().map(String::as_str))
                    .map_err(|problems| problems.map(|error| within(error, &[TASK])))?;
            }
            return from_node(&Node::new(node.origin.clone(), Value::Map(map))).map_err(|mut error| {
                known(&mut error);
                error.into()
            });
        };
        map.shift_remove(TASK);
        let place = from_node::<Place>(&Node::new(node.origin.clone(), Value::Map(map))).map_err(|mut error| {
            known(&mut error);
            error
        });
        let resolved = self.recipe(name, recipe, sets);
        let resolved = resolved.map_err(|problems| problems.map(|error| within(error, &[TASK])));
        let (place, resolved) = match (place, resolved) {
            (Ok(place), Ok(resolved)) => (place, resolved),
            (Err(error), Ok(_)) => return Err(error.into()),
            (Ok(_), Err(problems)) => return Err(problems),
            (Err(error), Err(mut problems)) => {
                problems.push(error);
                return Err(problems);
            }
        };
        for warning in resolved.warnings {
            let warning = schemas::Problem {
                path: format!("{TASKS}.{name}.{TASK}.{}", warning.path),
                ..warning
            };
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        Ok(Task {
            task: Work::from(resolved.run),
            executor: place.executor,
            depends_on: place.depends_on,
        })
    }

    /// A recipe: written here, or in a file of its own with a list of overrides. Over it go those of the command
    /// line, then those of the sweep.
    fn recipe(&self, name: &str, mut recipe: Node, sweep: &[String]) -> Result<Resolved, Problems> {
        /// A recipe that lies elsewhere.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Elsewhere {
            recipe: String,
            #[serde(default)]
            set: Vec<String>,
        }
        let mut sets = Vec::new();
        if let Some(at) = recipe.get(RECIPE) {
            let origin = at.origin.clone();
            let elsewhere: Elsewhere = from_node(&recipe)?;
            let file = if elsewhere.recipe.contains(['/', '.']) {
                // From the folder of the file that names it, as with includes.
                let folder = origin
                    .span()
                    .and_then(|(source, _)| path::Path::new(source.name()).parent().map(path::Path::to_owned));
                folder.unwrap_or_default().join(&elsewhere.recipe).to_string_lossy().into_owned()
            } else {
                elsewhere.recipe
            };
            recipe = resolve::load(&file).map_err(|error| ConfigError {
                origin: error.origin.or(Some(origin)),
                ..error
            })?;
            sets = elsewhere.set;
        }
        if let Some(workspace) = self.workspace {
            recipe = workspace.lay_under(recipe);
        }
        sets.extend(self.inner.iter().filter(|(task, _)| task == name).map(|(_, text)| text.clone()));
        sets.extend_from_slice(sweep);
        resolve::resolve(recipe, &sets)
    }

    /// Puts the executor in the place of its name.
    fn executor(&self, node: &mut Node) -> Result<(), Problems> {
        let name = match node.as_text() {
            Some(name) if !name.starts_with("run.") => name,
            _ => return Ok(()),
        };
        let chosen = executor::choose(Some(name), self.workspace, &[]).map_err(|problems| {
            problems.map(|error| ConfigError {
                origin: error.origin.or(Some(node.origin.clone())),
                ..error
            })
        })?;
        *node = to_node(&chosen.config, node.origin.clone())?;
        Ok(())
    }
}

/// Edges and groups that name a sweep name each of its tasks.
fn spread(mut experiment: schemas::Experiment, points: &BTreeMap<String, Vec<String>>) -> schemas::Experiment {
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

/// Adds what stands beside the fields of the type.
fn known(error: &mut ConfigError) {
    if error.path.0.len() == 1
        && let Problem::UnknownField { allowed, .. } = &mut *error.problem
    {
        allowed.extend([TASK, SWEEP].map(str::to_owned));
        allowed.sort();
        allowed.dedup();
    }
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
        problem: Box::new(Problem::Invalid {
            message: message.to_owned(),
            help: None,
        }),
    }
}
