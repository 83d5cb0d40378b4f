//! Resolver of the tasks of an experiment file.

use std::{collections::BTreeMap, path};

use indexmap::IndexMap;
use neva_schemas::{self as schemas, Dependency, Task, TaskSpec};
use serde::Deserialize;

use super::{FileCheck, TASKS, error, within};
use crate::{
    config::{
        self, ConfigError, Entry, FACTORY, Map, Node, Override, Path, ProblemKind, Problems, Segment, TARGET, Value, from_node, to_node,
    },
    executor,
    resolve::{self, Resolved},
    sweep::{Point, Sweep},
    workspace::Workspace,
};

const TASK: &str = "task";
const EXECUTOR: &str = "executor";
const SWEEP: &str = "sweep";
const RECIPE: &str = "recipe";
const SET: &str = "set";

/// Resolver of tasks; collects the tasks and their warnings.
pub(super) struct Resolver<'a> {
    pub(super) workspace: Option<&'a Workspace>,
    /// Overrides of recipes from the command line, with their tasks.
    pub(super) inner: &'a [(String, String)],
    pub(super) check_files: FileCheck<'a>,
    /// The current task waits for others because of its group or the sequential order.
    pub(super) has_parents: bool,
    pub(super) tasks: IndexMap<String, Task>,
    /// Names of the tasks of each sweep.
    pub(super) points: BTreeMap<String, Vec<String>>,
    pub(super) warnings: Vec<schemas::Problem>,
}

impl Resolver<'_> {
    /// Resolves the task `name` to one task, or to one for each point of its sweep.
    pub(super) fn task(&mut self, name: &str, node: &Node) -> Result<(), Problems> {
        let Some(mut map) = node.as_map().cloned() else {
            return Err(error(&[], "a task is a map: `task`, `executor`, `depends_on`, `sweep`", &node.origin).into());
        };
        let sweep = map.shift_remove(SWEEP);
        if let Some(Entry { node, .. }) = map.get_mut(EXECUTOR) {
            self.executor(node)?;
        }
        let points = match &sweep {
            Some(entry) => {
                let points = Sweep::from_node(&entry.node).and_then(|sweep| sweep.points());
                points.map_err(|error| within(error, &[SWEEP]))?
            }
            None => vec![Point::default()],
        };
        for point in points {
            let task = self
                .point(name, &map, node, &point.sets)
                .map_err(|problems| point.at_sweep(problems))?;
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

    /// Returns the task that `map` describes, with the overrides of one point.
    fn point(&mut self, name: &str, map: &Map, node: &Node, sets: &[String]) -> Result<Task, Problems> {
        /// A task without its work.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TaskSettings {
            #[serde(default)]
            executor: Option<schemas::ExecutorConfig>,
            #[serde(default)]
            depends_on: Vec<Dependency>,
        }
        let mut map = map.clone();
        let recipe = map.get(TASK).filter(|entry| is_recipe(&entry.node)).map(|entry| entry.node.clone());
        let Some(recipe) = recipe else {
            if let Some(Entry { node, .. }) = map.get_mut(TASK) {
                config::apply_overrides(node, sets.iter().map(String::as_str))
                    .map_err(|problems| problems.map(|error| within(error, &[TASK])))?;
            }
            return from_node(&Node::new(node.origin.clone(), Value::Map(map))).map_err(|mut error| {
                allow_task_keys(&mut error);
                error.into()
            });
        };
        map.shift_remove(TASK);
        let settings = from_node::<TaskSettings>(&Node::new(node.origin.clone(), Value::Map(map))).map_err(|mut error| {
            allow_task_keys(&mut error);
            error
        });
        let mut resolved = self.recipe(name, recipe, sets);
        if let (Ok(found), Ok(settings)) = (&mut resolved, &settings)
            && !self.has_parents
            && settings.depends_on.is_empty()
        {
            match (self.check_files)(found, settings.executor.as_ref()) {
                Ok(warnings) => found.warnings.extend(warnings),
                Err(problems) => resolved = Err(problems),
            }
        }
        let resolved = resolved.map_err(|problems| problems.map(|error| within(error, &[TASK])));
        let (settings, resolved) = match (settings, resolved) {
            (Ok(settings), Ok(resolved)) => (settings, resolved),
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
            task: TaskSpec::from(resolved.run),
            executor: settings.executor,
            depends_on: settings.depends_on,
        })
    }

    /// Resolves a recipe, inline or in a separate file with a list of overrides. Applies the overrides of the command
    /// line, then those of the sweep.
    fn recipe(&self, name: &str, mut recipe: Node, sweep: &[String]) -> Result<Resolved, Problems> {
        /// A recipe in a separate file.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RecipeFile {
            recipe: String,
            #[serde(default)]
            set: Vec<String>,
        }
        let mut sets = Vec::new();
        if let Some(at) = recipe.get(RECIPE) {
            let origin = at.origin.clone();
            let reference: RecipeFile = from_node(&recipe)?;
            let file = if reference.recipe.contains(['/', '.']) {
                // Relative to the folder of the file that names it, like includes.
                let folder = origin
                    .span()
                    .and_then(|(source, _)| path::Path::new(source.name()).parent().map(path::Path::to_owned));
                folder.unwrap_or_default().join(&reference.recipe).to_string_lossy().into_owned()
            } else {
                reference.recipe
            };
            recipe = resolve::load(&file).map_err(|error| ConfigError {
                origin: error.origin.or(Some(origin)),
                ..error
            })?;
            sets = reference.set;
        }
        if let Some(workspace) = self.workspace {
            recipe = workspace.merge_under(recipe);
        }
        sets.extend(self.inner.iter().filter(|(task, _)| task == name).map(|(_, text)| text.clone()));
        sets.extend_from_slice(sweep);
        resolve::resolve(recipe, &sets)
    }

    /// Replaces the name of an executor by its config.
    fn executor(&self, node: &mut Node) -> Result<(), Problems> {
        let name = match node.as_text() {
            Some(name) if !name.starts_with("run.") => name,
            _ => return Ok(()),
        };
        let chosen = executor::select(Some(name), self.workspace, &[]).map_err(|problems| {
            problems.map(|error| ConfigError {
                origin: error.origin.or(Some(node.origin.clone())),
                ..error
            })
        })?;
        *node = to_node(&chosen.config, node.origin.clone())?;
        Ok(())
    }
}

/// Splits an override of a task's recipe, such as `tasks.train.task.finetune...`, into the task and the override of the
/// recipe. Returns `None` for other overrides.
pub(super) fn recipe_override(file: &Node, text: &str) -> Option<(String, String)> {
    let path = Override::parse(text).ok()?.path();
    let [Segment::Key(tasks), Segment::Key(name), Segment::Key(task), rest @ ..] = path.0.as_slice() else {
        return None;
    };
    let body = file.get(TASKS)?.get(name)?.get(TASK)?;
    if tasks != TASKS || task != TASK || rest.is_empty() || !is_recipe(body) {
        return None;
    }
    // The name and the overrides of a recipe file belong to the experiment.
    if body.get(RECIPE).is_some() && matches!(&rest[0], Segment::Key(key) if key == RECIPE || key == SET) {
        return None;
    }
    let rest = Path(rest.to_vec());
    let (tilde, body) = text.strip_prefix('~').map_or(("", text), |body| ("~", body));
    let ends = body.match_indices('.').map(|(at, _)| format!("{tilde}{}", &body[at + 1..]));
    let mut ends = ends.filter(|end| Override::parse(end).is_ok_and(|parsed| parsed.path() == rest));
    Some((name.clone(), ends.next()?))
}

/// Returns the paths of the recipes of an experiment file, as overrides name them: `tasks.train.task`.
pub(crate) fn recipe_paths(file: &Node) -> Vec<String> {
    let tasks = file.get(TASKS).and_then(Node::as_map).into_iter().flat_map(Map::iter);
    let recipes = tasks.filter(|(_, entry)| entry.node.get(TASK).is_some_and(is_recipe));
    let path = |name: &str| Path([TASKS, name, TASK].map(|key| Segment::Key(key.to_owned())).to_vec());
    recipes.map(|(name, _)| path(name).to_string()).collect()
}

fn is_recipe(task: &Node) -> bool {
    (task.get(FACTORY).is_some() || task.get(RECIPE).is_some()) && task.get(TARGET).is_none()
}

/// Adds the keys of a task in an experiment file to the allowed fields.
fn allow_task_keys(error: &mut ConfigError) {
    if error.path.0.len() == 1
        && let ProblemKind::UnknownField { allowed, .. } = &mut *error.problem
    {
        allowed.extend([TASK, SWEEP].map(str::to_owned));
        allowed.sort();
        allowed.dedup();
    }
}
