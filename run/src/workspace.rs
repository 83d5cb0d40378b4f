//! The workspace file of a team: executors by name, and what its runs have in common.
//!
//! ```yaml
//! executors:
//!   patient: {_target_: run.LocalExecutor, retries: 2}
//! executor: patient             # where the command line names none
//! dir: runs                     # in place of ./nemo_experiments; from this file on
//! defaults:                     # laid under every recipe file, so a file and a `--set` go before them
//!   finetune: {log: {tensorboard: false}}
//! ```
//!
//! `neva.yaml` is looked for in the working directory and upward from there. A folder above that anybody may
//! write to, as `/tmp`, is passed over: what lies there is not the team's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{self, PathBuf},
};

use neva_schemas::{self as schemas, RecipeArgs, Validate as _};
use serde::Deserialize;

use crate::{
    config::{
        self, ConfigError, Entry, FACTORY, Factories, Map, Node, Origin, Path, Problem, Problems, Segment, Value, from_node, merge, to_node,
    },
    resolve::{self, GRAPH},
};

/// Name of the file.
pub const WORKSPACE_FILE: &str = "neva.yaml";

/// Keys of the file, and of its `defaults`, that are looked up by name.
const DEFAULTS: &str = "defaults";
const DIR: &str = "dir";
const EXECUTORS: &str = "executors";

/// A workspace file that was read and is valid.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The file.
    pub file: PathBuf,
    /// Its settings.
    pub settings: schemas::Workspace,
    /// The settings, with the places where they were written.
    tree: Node,
    /// What is laid under recipe files.
    defaults: Option<Node>,
}

impl Workspace {
    /// The workspace of `folder` (absolute): that of the closest folder upward.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn find(folder: &path::Path) -> Result<Option<Self>, Problems> {
        let folders = folder.ancestors().filter(|above| *above == folder || !anybody_writes(above));
        let file = folders.map(|folder| folder.join(WORKSPACE_FILE)).find(|file| file.is_file());
        file.map(|file| Self::read(&file)).transpose()
    }

    /// Reads the workspace file `file`.
    ///
    /// # Errors
    /// A file that cannot be read, or all that is wrong with what it holds.
    pub fn read(file: &path::Path) -> Result<Self, Problems> {
        Self::of(file, config::read(file)?)
    }

    /// The workspace that `tree`, read from `file`, describes.
    pub(crate) fn of(file: &path::Path, tree: Node) -> Result<Self, Problems> {
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
        let settings = config::build::<schemas::Workspace>(&mut tree, &Factories::builtin())
            .map_err(|problems| problems.map(with_defaults))
            .and_then(|settings| resolve::check(&tree, settings.problems("")).map(|()| settings));
        // A section whose lines are all comments is null.
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

    /// The executor `name`, as it was written.
    pub(crate) fn executor(&self, name: &str) -> Option<&Node> {
        self.tree.get(EXECUTORS)?.get(name)
    }

    /// A recipe's `file` over what this workspace has for all of them. `dir: null` in a recipe file is the
    /// workspace's folder.
    pub(crate) fn lay_under(&self, file: Node) -> Node {
        let Value::Map(mut top) = file.value else { return file };
        let is_null = |map: &Map, key: &str| map.get(key).is_some_and(|entry| matches!(entry.node.value, Value::Null));
        if is_null(&top, GRAPH) {
            top.shift_remove(GRAPH);
        }
        if let Some(dir) = self.dir().filter(|_| !top.contains_key(DIR) || is_null(&top, DIR)) {
            top.insert(DIR.to_owned(), dir);
        }
        let mut base = self.defaults.as_ref().and_then(Node::as_map).cloned().unwrap_or_default();
        // Another recipe would replace the defaults whole.
        if let Some(factory) = top.shift_remove(FACTORY) {
            base.insert(FACTORY.to_owned(), factory);
        }
        let mut base = Node::new(file.origin.clone(), Value::Map(base));
        merge(&mut base, Node::new(file.origin, Value::Map(top)));
        base
    }

    /// The folder of all runs, from the folder of this file on.
    fn dir(&self) -> Option<Entry> {
        let written = self.tree.as_map()?.get(DIR)?;
        let parent = self.file.parent().unwrap_or(path::Path::new(""));
        let dir = parent.join(self.settings.dir.as_ref()?).to_str()?.to_owned();
        Some(Entry {
            key: written.key.clone(),
            node: Node::new(written.node.origin.clone(), Value::Str(dir)),
        })
    }
}

/// `defaults` is one of the keys, too.
fn with_defaults(mut error: ConfigError) -> ConfigError {
    if let Problem::UnknownField { allowed, .. } = &mut *error.problem
        && error.path.0.len() == 1
    {
        allowed.push(DEFAULTS.to_owned());
    }
    error
}

/// Whether anybody on this machine may put a file into `folder`.
fn anybody_writes(folder: &path::Path) -> bool {
    const OTHERS_WRITE: u32 = 0o002;
    fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & OTHERS_WRITE != 0)
}

/// That the defaults are a part of a recipe file. What they must be together depends on the recipe, and is asked
/// when there is one.
fn check_defaults(defaults: &Node) -> Result<(), ConfigError> {
    let within = |mut error: ConfigError| {
        error.path.0.insert(0, Segment::Key(DEFAULTS.to_owned()));
        error
    };
    let Some(map) = defaults.as_map() else {
        return Err(error(
            "`defaults` is a part of a recipe file: arguments, `finetune`",
            &[DEFAULTS],
            &defaults.origin,
        ));
    };
    for (name, say) in [
        (FACTORY, "each recipe file names its own recipe"),
        (DIR, "`dir` stands at the top of this file"),
    ] {
        if let Some(entry) = map.get(name) {
            return Err(error(say, &[DEFAULTS, name], &entry.key));
        }
    }
    let mut arguments = map.clone();
    arguments.shift_remove(GRAPH);
    from_node::<RecipeArgs>(&Node::new(defaults.origin.clone(), Value::Map(arguments))).map_err(|mut error| {
        if let Problem::UnknownField { allowed, .. } = &mut *error.problem {
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
        problem: Box::new(Problem::Invalid {
            message: message.to_owned(),
            help: None,
        }),
    }
}
