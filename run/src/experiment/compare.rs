//! Comparison of two experiments or two tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use neva_schemas::{ExperimentConfig, METRICS_FILE, Task, TaskSpec};
use serde::Serialize;

use super::{error::ExperimentError, folder::ExperimentFolder, record::ExperimentRecord, store::Store};
use crate::{
    config::{self, Difference, Entry, Node, Origin, Value, to_node},
    error::RunError,
};

/// Number of bytes at the end of a metrics file that are searched for the last line.
const TAIL: u64 = 64 << 10;

/// Differences in configuration, and the last metrics of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// Values of the configuration that differ.
    pub(crate) differences: Vec<Difference>,
    /// Last metrics of the same task on both sides.
    pub(crate) metrics: Vec<Metric>,
}

/// Last value of a metric on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metric {
    /// The task's name, or both names.
    pub(crate) task: String,
    /// The metric's name.
    pub(crate) name: String,
    /// Last value of A.
    pub(crate) a: Option<f64>,
    /// Last value of B.
    pub(crate) b: Option<f64>,
}

/// One side: an experiment, or one of its tasks for `ID/TASK`.
struct Side {
    folder: ExperimentFolder,
    record: ExperimentRecord,
    task: Option<String>,
}

/// Compares `a` and `b`, each `EXPERIMENT` or `EXPERIMENT/TASK`.
///
/// # Errors
/// One of them does not exist or cannot be read; one is a task and the other an experiment.
pub(crate) fn compare(store: &Store, a: &str, b: &str) -> Result<Comparison, RunError> {
    let (a, b) = (Side::find(store, a)?, Side::find(store, b)?);
    let (left, right) = match (&a.task, &b.task) {
        (Some(left), Some(right)) => (a.node(left)?, b.node(right)?),
        (None, None) => (a.whole()?, b.whole()?),
        _ => {
            return Err(RunError::Argument(
                "compare a task with a task, or an experiment with an experiment".to_owned(),
            ));
        }
    };
    let pairs: Vec<(&str, &str)> = match (&a.task, &b.task) {
        (Some(left), Some(right)) => vec![(left, right)],
        _ => {
            let names = a
                .record
                .experiment
                .tasks
                .keys()
                .filter(|name| b.record.experiment.tasks.contains_key(*name));
            names.map(|name| (name.as_str(), name.as_str())).collect()
        }
    };
    let mut metrics = Vec::new();
    for (left, right) in pairs {
        let (left_values, right_values) = (last_metrics(&a.folder, left), last_metrics(&b.folder, right));
        let names: BTreeSet<_> = left_values.keys().chain(right_values.keys()).collect();
        let task = if left == right {
            left.to_owned()
        } else {
            format!("{left} | {right}")
        };
        metrics.extend(names.into_iter().map(|name| Metric {
            task: task.clone(),
            name: name.clone(),
            a: left_values.get(name).copied(),
            b: right_values.get(name).copied(),
        }));
    }
    Ok(Comparison {
        differences: config::diff(&left, &right),
        metrics,
    })
}

impl Side {
    fn find(store: &Store, name: &str) -> Result<Self, RunError> {
        let (experiment, task) = match name.split_once('/') {
            Some((experiment, task)) => (experiment, Some(task.to_owned())),
            None => (name, None),
        };
        let folder = store.find(experiment)?;
        let record = ExperimentRecord::read(&folder.dir)?;
        if let Some(task) = &task {
            record.require_task(task)?;
        }
        Ok(Self { folder, record, task })
    }

    /// Returns a task as a node with the paths of an experiment file.
    fn node(&self, task: &str) -> Result<Node, RunError> {
        let Some(Task {
            task,
            executor,
            depends_on,
        }) = self.record.experiment.tasks.get(task)
        else {
            return Ok(map([]));
        };
        let work = match task {
            TaskSpec::Finetune(run) => node(run)?,
            TaskSpec::Script(script) => node(script)?,
            other => node(other)?,
        };
        let fields = [("task", work), ("executor", node(executor)?), ("depends_on", node(depends_on)?)];
        Ok(map(fields.map(|(name, node)| (name.to_owned(), node))))
    }

    /// Returns the whole experiment as a node.
    fn whole(&self) -> Result<Node, RunError> {
        let ExperimentConfig {
            tasks,
            groups,
            sequential,
            max_parallel,
            ..
        } = &self.record.experiment;
        let tasks: Vec<_> = tasks
            .keys()
            .map(|task| Ok((task.clone(), self.node(task)?)))
            .collect::<Result<_, RunError>>()?;
        let fields = [
            ("tasks", map(tasks)),
            ("groups", node(groups)?),
            ("sequential", node(sequential)?),
            ("max_parallel", node(max_parallel)?),
        ];
        Ok(map(fields.map(|(name, node)| (name.to_owned(), node))))
    }
}

fn node(value: &impl Serialize) -> Result<Node, RunError> {
    Ok(to_node(value, Origin::Default)?)
}

fn map(entries: impl IntoIterator<Item = (String, Node)>) -> Node {
    let key = Origin::Default;
    let entries = entries.into_iter().map(|(name, node)| (name, Entry { key: key.clone(), node }));
    Node::new(key.clone(), Value::Map(entries.collect()))
}

impl ExperimentRecord {
    /// Checks that the experiment has the task `task`.
    ///
    /// # Errors
    /// There is no such task.
    pub(crate) fn require_task(&self, task: &str) -> Result<(), ExperimentError> {
        if self.experiment.tasks.contains_key(task) {
            return Ok(());
        }
        Err(ExperimentError::UnknownTask {
            id: self.id.clone(),
            task: task.to_owned(),
            tasks: self.experiment.tasks.keys().cloned().collect(),
        })
    }
}

/// Returns the numbers in the last complete line of a task's metrics.
fn last_metrics(folder: &ExperimentFolder, task: &str) -> BTreeMap<String, f64> {
    let dir = folder.submitted_dir(task).unwrap_or_else(|| folder.task(task));
    let text = tail(&dir.join(METRICS_FILE)).unwrap_or_default();
    let line = |line: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line).ok();
    let last = text.lines().rev().find_map(line).unwrap_or_default();
    last.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
