//! Experiments of a test: their commands, folders and jobs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::cluster::Cluster;

/// Returns `neva-run` in the folder of a test, with a store of its own there.
pub(crate) fn command(cluster: &Cluster, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = cluster.neva_run(arguments);
    command.current_dir(dir).env("NEVA_RUN_HOME", dir.join("home"));
    command
}

/// Returns the folder of the only experiment of a name, once its record is written: commands find it from then on.
pub(crate) fn experiment(dir: &Path, name: &str) -> Option<PathBuf> {
    let folder = fs::read_dir(dir.join("home/experiments").join(name)).ok()?.next()?.ok()?.path();
    folder.join("experiment.json").exists().then_some(folder)
}

/// Returns the numbers of the jobs that an experiment submitted, in order.
pub(crate) fn jobs(folder: &Path) -> Vec<String> {
    let events = fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    let number = |line: &str| {
        let (_, rest) = line.split_once("slurm:///")?;
        Some(rest.split_once('/')?.0.to_owned())
    };
    events.lines().filter_map(number).collect()
}

/// Returns what `neva-run experiment status` prints.
#[track_caller]
pub(crate) fn status(cluster: &Cluster, dir: &Path, name: &str) -> String {
    neva_tests::run(command(cluster, dir, &["experiment", "status", name]))
        .with_code(0)
        .stdout
}
