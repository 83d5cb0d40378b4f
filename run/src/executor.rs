//! Creates an executor from its configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_executors::{
    DockerExecutor, Executor, ExecutorError, KubernetesExecutor, LocalExecutor, SlurmExecutor, container::default_socket, tunnel,
};
use neva_schemas::{self as schemas, DOCKER, KUBERNETES, LOCAL, Problem, SLURM, Severity, TunnelConfig, Validate as _, env};
use serde::Deserialize;

use crate::{
    config::{self, ConfigError, Entry, Factories, Node, Origin, Override, ProblemKind, Problems, Segment, Value, to_node},
    environment, program,
    resolve::check,
    workspace::Workspace,
};

/// The first segment of paths into an executor.
const EXECUTOR: &str = "executor";

/// Creates the executor that `config` describes. If the rank program is not found, its bare name is used, so that a job
/// fails when it starts and not when it is printed.
///
/// # Errors
/// The way to the executor's machine cannot be used.
pub fn executor(config: &schemas::ExecutorConfig) -> Result<Arc<dyn Executor>, ExecutorError> {
    Ok(match config {
        schemas::ExecutorConfig::Local(local) => Arc::new(LocalExecutor {
            program: program::find_here().unwrap_or_else(|_| program::name().into()),
            settle: Duration::from_secs(local.settle_s),
            grace: Duration::from_secs(local.grace_s),
        }),
        schemas::ExecutorConfig::Docker(docker) => Arc::new(docker_executor(docker)),
        schemas::ExecutorConfig::Slurm(slurm) => Arc::new(slurm_executor(slurm)?),
        schemas::ExecutorConfig::Kubernetes(kubernetes) => Arc::new(kubernetes_executor(kubernetes)),
    })
}

/// Creates the container executor that `config` describes.
pub(crate) fn docker_executor(docker: &schemas::DockerExecutorConfig) -> DockerExecutor {
    let host = docker.docker_host.clone().or_else(|| environment::variable(env::DOCKER_HOST));
    let socket = default_socket(host.as_deref(), environment::path(env::XDG_RUNTIME_DIR).as_deref());
    let user = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    DockerExecutor {
        program: program::name().into(),
        environment: variables(&docker.env_from),
        folder: environment::working_directory().unwrap_or_default(),
        ..DockerExecutor::new(docker.clone(), socket, user)
    }
}

/// Creates the executor for Slurm that `config` describes.
///
/// # Errors
/// The way to the cluster cannot be used.
pub(crate) fn slurm_executor(slurm: &schemas::SlurmExecutorConfig) -> Result<SlurmExecutor, ExecutorError> {
    let own_program = || program::find_here().unwrap_or_else(|_| program::name().into());
    let home = environment::path(env::HOME);
    let tunnel = tunnel::tunnel(&slurm.tunnel, home.as_deref())?;
    let is_here = matches!(slurm.tunnel, TunnelConfig::Local(_));
    let (program, upload) = match (&slurm.rank_program, slurm.tunnel.job_dir()) {
        (Some(program), _) => (program.into(), None),
        (None, Some(folder)) if !is_here => uploaded(own_program(), folder),
        (None, _) => (own_program(), None),
    };
    Ok(SlurmExecutor {
        environment: variables(&slurm.env_from),
        folder: environment::working_directory().unwrap_or_default(),
        upload,
        is_here,
        ..SlurmExecutor::new(slurm.clone(), tunnel, program)
    })
}

/// Creates the executor for Kubernetes that `config` describes. It connects with its first request.
pub(crate) fn kubernetes_executor(config: &schemas::KubernetesExecutorConfig) -> KubernetesExecutor {
    KubernetesExecutor::new(config.clone()).environment(variables(&config.env_from))
}

/// Returns the variables of this process that are set.
fn variables(names: &[String]) -> BTreeMap<String, String> {
    let set = |name: &String| Some((name.clone(), environment::variable(name)?));
    names.iter().filter_map(set).collect()
}

/// Returns whether the executor starts the rank program of this machine.
pub(crate) fn needs_own_program(config: &schemas::ExecutorConfig) -> bool {
    match config {
        schemas::ExecutorConfig::Local(_) => true,
        // The image has it.
        schemas::ExecutorConfig::Docker(_) => false,
        schemas::ExecutorConfig::Slurm(slurm) => slurm.rank_program.is_none(),
        schemas::ExecutorConfig::Kubernetes(_) => false,
    }
}

/// Returns the place of this machine's rank program below `folder` on another one, by its content, and the program itself.
/// A program that is missing here keeps its name, so that a job can be printed.
fn uploaded(program: PathBuf, folder: &Path) -> (PathBuf, Option<PathBuf>) {
    let name = program.file_name().map_or_else(|| program::name().into(), PathBuf::from);
    match program::hash(&program) {
        Some(hash) => (folder.join(PROGRAMS).join(hash).join(name), Some(program)),
        None => (name, None),
    }
}

/// Folder of uploaded programs.
const PROGRAMS: &str = ".neva-run/programs";

/// The executor configuration selected for a run.
#[derive(Debug, Clone)]
pub(crate) struct SelectedExecutor {
    /// Its name as written: `local`, a name of the workspace, a file.
    pub(crate) name: String,
    /// Its configuration.
    pub(crate) config: schemas::ExecutorConfig,
    /// The tree that it was read from.
    pub(crate) tree: Node,
    /// Problems that do not stop a run.
    pub(crate) warnings: Vec<Problem>,
}

/// Reads the executor with the name or file `name`, and applies `overrides`, whose paths begin with `executor`. Without a
/// name it is the workspace's, else `local`.
///
/// # Errors
/// An unknown name; a file that is not an executor; an override that does not apply; inconsistent values.
pub(crate) fn select(name: Option<&str>, workspace: Option<&Workspace>, overrides: &[Override]) -> Result<SelectedExecutor, Problems> {
    let name = name.or_else(|| workspace?.settings.executor.as_deref()).unwrap_or(LOCAL);
    with_overrides(name, load(name, workspace)?, overrides)
}

/// As [`select`], for an executor that was already read.
pub(crate) fn with_overrides(name: &str, node: Node, overrides: &[Override]) -> Result<SelectedExecutor, Problems> {
    let key = node.origin.clone();
    let map = [(EXECUTOR.to_owned(), Entry { key: key.clone(), node })].into_iter().collect();
    let mut tree = Node::new(key, Value::Map(map));
    Problems::check(overrides.iter().filter_map(|over| over.apply(&mut tree).err()).collect())?;

    let config = typed(&mut tree)?;
    let problems = config.problems(EXECUTOR).into_iter().chain(unset_variables(&config));
    let (errors, warnings) = problems.partition(|problem| problem.severity == Severity::Error);
    check(&tree, errors)?;
    Ok(SelectedExecutor {
        name: name.to_owned(),
        config,
        tree,
        warnings,
    })
}

/// Returns whether `over` sets a value of the executor.
pub(crate) fn is_executor_override(over: &Override) -> bool {
    matches!(over.path().0.first(), Some(Segment::Key(key)) if key == EXECUTOR)
}

fn load(name: &str, workspace: Option<&Workspace>) -> Result<Node, ConfigError> {
    if let Some(node) = workspace.and_then(|workspace| workspace.executor(name)) {
        return Ok(node.clone());
    }
    let built_in = match name {
        LOCAL => Some(schemas::ExecutorConfig::default()),
        DOCKER => Some(schemas::ExecutorConfig::Docker(Box::default())),
        SLURM => Some(schemas::ExecutorConfig::Slurm(Box::default())),
        KUBERNETES => Some(schemas::ExecutorConfig::Kubernetes(Box::default())),
        _ => None,
    };
    if let Some(config) = built_in {
        return to_node(&config, Origin::Default);
    }
    if name.contains(['/', '.']) {
        return config::load(Path::new(name));
    }
    let known = workspace
        .into_iter()
        .flat_map(|workspace| workspace.settings.executors.keys().cloned());
    let own = known.filter(|name| ![LOCAL, DOCKER, SLURM, KUBERNETES].contains(&name.as_str()));
    let allowed: Vec<_> = [LOCAL, DOCKER, SLURM, KUBERNETES]
        .map(str::to_owned)
        .into_iter()
        .chain(own)
        .collect();
    Err(ConfigError {
        path: config::Path(vec![Segment::Key(EXECUTOR.to_owned())]),
        origin: None,
        problem: Box::new(ProblemKind::unknown_variant(name.to_owned(), allowed)),
    })
}

fn typed(tree: &mut Node) -> Result<schemas::ExecutorConfig, Problems> {
    /// Makes error paths start with `executor`, as users write them.
    #[derive(Deserialize)]
    struct Top {
        executor: schemas::ExecutorConfig,
    }
    config::build::<Top>(tree, &Factories::builtin()).map(|top| top.executor)
}

/// Returns a warning for each variable that `config` takes from this process's environment and that is not set.
fn unset_variables(config: &schemas::ExecutorConfig) -> Vec<Problem> {
    let names = config.env_from().iter().enumerate();
    names
        .filter(|(_, name)| !environment::is_set(name))
        .map(|(index, name)| {
            let path = format!("{EXECUTOR}.env_from[{index}]");
            Problem::warning(path, format!("{name} is not set here, so the job will not have it")).help(format!("export {name}=..."))
        })
        .collect()
}
