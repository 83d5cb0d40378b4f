//! The workspace file of a team: named executors and the common settings of its runs.
//!
//! ```yaml
//! executors:
//!   retrying: {_target_: run.LocalExecutor, retries: 2}
//! executor: retrying            # the default of `--executor`
//! dir: runs                     # instead of ./nemo_experiments; relative to this file
//! defaults:                     # merged under every recipe file; a file and a `--set` override them
//!   finetune: {log: {tensorboard: false}}
//! ```
//!
//! `neva.yaml` is searched in the working directory and its parents. A world-writable parent, such as `/tmp`, is
//! skipped: a file there may come from anybody.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{self, PathBuf},
};

use neva_schemas::{self as schemas, RecipeArgs, Validate as _};
use serde::Deserialize;

use crate::{
    config::{
        self, ConfigError, Entry, FACTORY, Factories, Map, Node, Origin, Path, ProblemKind, Problems, Segment, Value, from_node, merge,
        to_node,
    },
    resolve::{self, GRAPH},
};

/// Name of the workspace file.
pub const WORKSPACE_FILE: &str = "neva.yaml";

/// Keys of the file and of its `defaults`.
const DEFAULTS: &str = "defaults";
const DIR: &str = "dir";
const EXECUTORS: &str = "executors";

/// A valid workspace file.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The file.
    pub file: PathBuf,
    /// Its settings.
    pub settings: schemas::WorkspaceConfig,
    /// The settings with their origins.
    tree: Node,
    /// The tree that is merged under recipe files.
    defaults: Option<Node>,
}

impl Workspace {
    /// Finds the workspace of `folder` (absolute): that of the closest folder upward.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn find(folder: &path::Path) -> Result<Option<Self>, Problems> {
        let folders = folder.ancestors().filter(|above| *above == folder || !is_world_writable(above));
        let file = folders.map(|folder| folder.join(WORKSPACE_FILE)).find(|file| file.is_file());
        file.map(|file| Self::read(&file)).transpose()
    }

    /// Reads the workspace file `file`.
    ///
    /// # Errors
    /// A file that cannot be read, or all problems of its content.
    pub fn read(file: &path::Path) -> Result<Self, Problems> {
        Self::from_tree(file, config::read(file)?)
    }

    /// Creates the workspace from `tree`, which was read from `file`.
    pub(crate) fn from_tree(file: &path::Path, tree: Node) -> Result<Self, Problems> {
        let origin = tree.origin.clone();
        let mut map = match tree.value {
            Value::Map(map) => map,
            Value::Null => Map::new(),
            _ => {
                return Err(error(
                    "a workspace file is a map: `executors`, `executor`, `dir`, `defaults`",
                    &[],
                    &origin,
                )
                .into());
            }
        };
        let defaults = map.shift_remove(DEFAULTS).map(|entry| entry.node);
        let mut tree = Node::new(origin, Value::Map(map));
        let settings = config::build::<schemas::WorkspaceConfig>(&mut tree, &Factories::builtin())
            .map_err(|problems| problems.map(with_defaults))
            .and_then(|settings| resolve::check(&tree, settings.problems("")).map(|()| settings));
        // A section that holds only comments is null.
        let defaults = defaults.filter(|defaults| !matches!(defaults.value, Value::Null));
        let checked = defaults.as_ref().map_or(Ok(()), check_defaults);
        let settings = match (settings, checked) {
            (Ok(settings), Ok(())) => settings,
            (Ok(_), Err(error)) => return Err(error.into()),
            (Err(problems), Ok(())) => return Err(problems),
            (Err(problems), Err(error)) => {
                let all = problems.errors().iter().cloned().chain([error]).collect();
                return Problems::check(all).and(Err(problems));
            }
        };
        Ok(Self {
            file: file.to_owned(),
            settings,
            tree,
            defaults,
        })
    }

    /// Returns the executor `name` as written.
    pub(crate) fn executor(&self, name: &str) -> Option<&Node> {
        self.tree.get(EXECUTORS)?.get(name)
    }

    /// Merges the defaults of this workspace under a recipe's `file`. `dir: null` in a recipe file means the workspace's
    /// folder.
    pub(crate) fn merge_under(&self, file: Node) -> Node {
        let Value::Map(mut top) = file.value else { return file };
        let is_null = |map: &Map, key: &str| map.get(key).is_some_and(|entry| matches!(entry.node.value, Value::Null));
        if is_null(&top, GRAPH) {
            top.shift_remove(GRAPH);
        }
        if let Some(dir) = self.dir().filter(|_| !top.contains_key(DIR) || is_null(&top, DIR)) {
            top.insert(DIR.to_owned(), dir);
        }
        let mut base = self.defaults.as_ref().and_then(Node::as_map).cloned().unwrap_or_default();
        // Merging another recipe would replace all defaults.
        if let Some(factory) = top.shift_remove(FACTORY) {
            base.insert(FACTORY.to_owned(), factory);
        }
        let mut base = Node::new(file.origin.clone(), Value::Map(base));
        merge(&mut base, Node::new(file.origin, Value::Map(top)));
        base
    }

    /// Returns the folder of all runs, relative to the folder of this file.
    fn dir(&self) -> Option<Entry> {
        let written = self.tree.as_map()?.get(DIR)?;
        let parent = self.file.parent().unwrap_or(path::Path::new(""));
        let dir = self.settings.dir.as_ref()?;
        let dir = if dir.starts_with("~") { dir.clone() } else { parent.join(dir) };
        let dir = dir.to_str()?.to_owned();
        Some(Entry {
            key: written.key.clone(),
            node: Node::new(written.node.origin.clone(), Value::Str(dir)),
        })
    }
}

/// `defaults` is one of the keys, too.
fn with_defaults(mut error: ConfigError) -> ConfigError {
    if let ProblemKind::UnknownField { allowed, .. } = &mut *error.problem
        && error.path.0.len() == 1
    {
        allowed.push(DEFAULTS.to_owned());
    }
    error
}

/// Returns whether every user of this machine may create files in `folder`.
fn is_world_writable(folder: &path::Path) -> bool {
    const OTHERS_WRITE: u32 = 0o002;
    fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & OTHERS_WRITE != 0)
}

/// Checks that the defaults are a part of a recipe file. Rules across fields depend on the recipe, so they are checked
/// when a recipe is resolved.
fn check_defaults(defaults: &Node) -> Result<(), ConfigError> {
    let within = |mut error: ConfigError| {
        error.path.0.insert(0, Segment::Key(DEFAULTS.to_owned()));
        error
    };
    let Some(map) = defaults.as_map() else {
        return Err(error(
            "`defaults` is part of a recipe file: arguments, `finetune`",
            &[DEFAULTS],
            &defaults.origin,
        ));
    };
    for (name, message) in [
        (FACTORY, "each recipe file names its own recipe"),
        (DIR, "`dir` belongs at the top level of this file"),
    ] {
        if let Some(entry) = map.get(name) {
            return Err(error(message, &[DEFAULTS, name], &entry.key));
        }
    }
    let mut arguments = map.clone();
    arguments.shift_remove(GRAPH);
    from_node::<RecipeArgs>(&Node::new(defaults.origin.clone(), Value::Map(arguments))).map_err(|mut error| {
        if let ProblemKind::UnknownField { allowed, .. } = &mut *error.problem {
            allowed.push(GRAPH.to_owned());
        }
        within(error)
    })?;
    let Some(graph) = map.get(GRAPH).filter(|entry| !matches!(entry.node.value, Value::Null)) else {
        return Ok(());
    };
    #[derive(Deserialize)]
    struct Top {
        #[serde(rename = "finetune")]
        _finetune: schemas::Finetune,
    }
    let recipe = neva_recipes::neva_tiny::finetune_recipe(RecipeArgs::default());
    let mut full = to_node(&recipe, Origin::recipe("neva_tiny"))?;
    merge(&mut full, graph.node.clone());
    let top = Entry {
        key: graph.key.clone(),
        node: full,
    };
    let top = Node::new(defaults.origin.clone(), Value::Map([(GRAPH.to_owned(), top)].into_iter().collect()));
    from_node::<Top>(&top).map(drop).map_err(within)
}

fn error(message: &str, path: &[&str], origin: &Origin) -> ConfigError {
    ConfigError {
        path: Path(path.iter().map(|key| Segment::Key((*key).to_owned())).collect()),
        origin: Some(origin.clone()),
        problem: Box::new(ProblemKind::Invalid {
            message: message.to_owned(),
            help: None,
        }),
    }
}
