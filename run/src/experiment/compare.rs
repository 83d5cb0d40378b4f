//! Two experiments, or two tasks, side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use neva_schemas::{Experiment, METRICS_FILE, Task, Work};
use serde::Serialize;

use super::{error::ExperimentError, folder::ExperimentFolder, record::ExperimentRecord, store::Store};
use crate::{
    config::{self, Difference, Entry, Node, Origin, Value, to_node},
    error::RunError,
};

/// Most bytes of a file of metrics in which its last line is looked for.
const TAIL: u64 = 64 << 10;

/// What two sides differ in, and where they ended.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// Values of the configuration.
    pub(crate) differences: Vec<Difference>,
    /// Last metrics, of the same task on both sides.
    pub(crate) metrics: Vec<Metric>,
}

/// A metric at the end of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metric {
    /// The task, where there may be several.
    pub(crate) task: String,
    /// The metric's name.
    pub(crate) name: String,
    /// Its last value on the left.
    pub(crate) a: Option<f64>,
    /// Its last value on the right.
    pub(crate) b: Option<f64>,
}

/// One side: an experiment, or with `ID/TASK` one of its tasks.
struct Side {
    folder: ExperimentFolder,
    record: ExperimentRecord,
    task: Option<String>,
}

/// Compares `a` and `b`, each `EXPERIMENT` or `EXPERIMENT/TASK`.
///
/// # Errors
/// One of them is not there or cannot be read; one is a task and the other an experiment.
pub(crate) fn compare(store: &Store, a: &str, b: &str) -> Result<Comparison, RunError> {
    let (a, b) = (Side::of(store, a)?, Side::of(store, b)?);
    let (left, right) = match (&a.task, &b.task) {
        (Some(left), Some(right)) => (a.node(left)?, b.node(right)?),
        (None, None) => (a.whole()?, b.whole()?),
        _ => {
            return Err(RunError::Argument(
                "a task is compared with a task, and an experiment with an experiment".to_owned(),
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
    fn of(store: &Store, asked: &str) -> Result<Self, RunError> {
        let (experiment, task) = match asked.split_once('/') {
            Some((experiment, task)) => (experiment, Some(task.to_owned())),
            None => (asked, None),
        };
        let folder = store.find(experiment)?;
        let record = ExperimentRecord::read(&folder.dir)?;
        if let Some(task) = &task {
            record.known(task)?;
        }
        Ok(Self { folder, record, task })
    }

    /// A task, with the paths that a file has.
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
            Work::Finetune(run) => node(run)?,
            Work::Script(script) => node(script)?,
            other => node(other)?,
        };
        let fields = [("task", work), ("executor", node(executor)?), ("depends_on", node(depends_on)?)];
        Ok(map(fields.map(|(name, node)| (name.to_owned(), node))))
    }

    fn whole(&self) -> Result<Node, RunError> {
        let Experiment {
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
    /// That there is a task of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn known(&self, task: &str) -> Result<(), ExperimentError> {
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

/// The numbers in the last whole line of a task's metrics.
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
