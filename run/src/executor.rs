//! From the description of a place to run to the place itself.

use std::{path::Path, sync::Arc, time::Duration};

use neva_executors::{Executor, LocalExecutor};
use neva_schemas::{self as schemas, LOCAL, Problem as Remark, Severity, Validate as _};
use serde::Deserialize;

use crate::{
    config::{self, ConfigError, Edit, Entry, Factories, Node, Origin, Problem, Problems, Segment, Value, to_node},
    environment, program,
    resolve::check,
    workspace::Workspace,
};

/// The first part of the paths that lead into an executor.
const EXECUTOR: &str = "executor";

/// The executor that `config` describes. A rank program that is not found is called by its name, so that a job is
/// refused when it starts and not when it is printed.
pub fn executor(config: &schemas::Executor) -> Arc<dyn Executor> {
    match config {
        schemas::Executor::Local(local) => Arc::new(LocalExecutor {
            program: program::find_here().unwrap_or_else(|_| program::name().into()),
            settle: Duration::from_secs(local.settle_s),
            grace: Duration::from_secs(local.grace_s),
        }),
    }
}

/// A description that was chosen for a run.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    /// How it was called: `local`, a name of the workspace, a file.
    pub(crate) name: String,
    /// What it is.
    pub(crate) config: schemas::Executor,
    /// What it was read from.
    pub(crate) tree: Node,
    /// What does not stop a run.
    pub(crate) warnings: Vec<Remark>,
}

/// Reads the executor that `name` is the name or the file of, and applies `edits`, whose paths begin with
/// `executor`. Without a name it is the workspace's, else `local`.
///
/// # Errors
/// A name that nobody knows; a file that is not an executor; an edit that does not fit; values that do not fit
/// together.
pub(crate) fn choose(name: Option<&str>, workspace: Option<&Workspace>, edits: &[Edit]) -> Result<Chosen, Problems> {
    let name = name.or_else(|| workspace?.settings.executor.as_deref()).unwrap_or(LOCAL);
    of(name, load(name, workspace)?, edits)
}

/// As [`choose`], of an executor that was read.
pub(crate) fn of(name: &str, node: Node, edits: &[Edit]) -> Result<Chosen, Problems> {
    let key = node.origin.clone();
    let map = [(EXECUTOR.to_owned(), Entry { key: key.clone(), node })].into_iter().collect();
    let mut tree = Node::new(key, Value::Map(map));
    Problems::check(edits.iter().filter_map(|edit| edit.apply(&mut tree).err()).collect())?;

    let config = typed(&mut tree)?;
    let remarks = config.problems(EXECUTOR).into_iter().chain(unset_variables(&config));
    let (errors, warnings) = remarks.partition(|remark| remark.severity == Severity::Error);
    check(&tree, errors)?;
    Ok(Chosen {
        name: name.to_owned(),
        config,
        tree,
        warnings,
    })
}

/// Whether `edit` leads into the executor.
pub(crate) fn is_executors(edit: &Edit) -> bool {
    matches!(edit.path().0.first(), Some(Segment::Key(key)) if key == EXECUTOR)
}

fn load(name: &str, workspace: Option<&Workspace>) -> Result<Node, ConfigError> {
    if let Some(node) = workspace.and_then(|workspace| workspace.executor(name)) {
        return Ok(node.clone());
    }
    if name == LOCAL {
        return to_node(&schemas::Executor::default(), Origin::Default);
    }
    if name.contains(['/', '.']) {
        return config::load(Path::new(name));
    }
    let known = workspace
        .into_iter()
        .flat_map(|workspace| workspace.settings.executors.keys().cloned());
    let mut allowed: Vec<_> = known.filter(|name| name != LOCAL).collect();
    allowed.insert(0, LOCAL.to_owned());
    Err(ConfigError {
        path: config::Path(vec![Segment::Key(EXECUTOR.to_owned())]),
        origin: None,
        problem: Box::new(Problem::UnknownVariant {
            name: name.to_owned(),
            allowed,
        }),
    })
}

fn typed(tree: &mut Node) -> Result<schemas::Executor, Problems> {
    /// Gives errors the path that the user knows, which starts with `executor`.
    #[derive(Deserialize)]
    struct Top {
        executor: schemas::Executor,
    }
    config::build::<Top>(tree, &Factories::builtin()).map(|top| top.executor)
}

/// A warning for each variable that `config` takes from this process's environment and that is not set there.
fn unset_variables(config: &schemas::Executor) -> Vec<Remark> {
    let names = config.env_from().iter().enumerate();
    names
        .filter(|(_, name)| !environment::is_set(name))
        .map(|(index, name)| {
            let path = format!("{EXECUTOR}.env_from[{index}]");
            Remark::warning(path, format!("{name} is not set here, so the job will not have it")).help(format!("export {name}=..."))
        })
        .collect()
}
