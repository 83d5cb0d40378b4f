//! Index of a store: a line for each start and each end of an experiment.
//!
//! The index is only a cache. The folders define which experiments exist. Missing entries are read from the folder, and
//! invalid lines are ignored.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::Path,
};

use neva_schemas::ExitClass;
use serde::{Deserialize, Serialize};

use super::{
    error::ExperimentError,
    folder::{ExperimentFolder, state_name},
    record::ExperimentRecord,
};
use crate::error::RunError;

const INDEX_FILE: &str = "index.jsonl";

/// One experiment in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Creation time in milliseconds since the epoch; 0 if its record cannot be read.
    pub created: u64,
    /// Number of its tasks.
    pub tasks: usize,
    /// `running`, `succeeded`, `failed`, `interrupted`, or `damaged` if its record cannot be read.
    pub state: &'static str,
}

/// Format number of a line. Lines with another number are ignored.
const INDEX_FORMAT: u32 = 1;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Line {
    format: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tasks: Option<usize>,
    /// The exit code; `None` after a start or resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<ExitClass>,
}

/// The contents of the index.
pub(super) struct Index {
    lines: BTreeMap<String, Line>,
}

impl Index {
    pub(super) fn read(home: &Path) -> Self {
        let mut lines = BTreeMap::<String, Line>::new();
        let bytes = fs::read(home.join(INDEX_FILE)).unwrap_or_default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let line = serde_json::from_slice::<Line>(line).ok().filter(|line| line.format == INDEX_FORMAT);
            let Some(line) = line else { continue };
            let known = lines.entry(line.id.clone()).or_insert_with(|| Line {
                id: line.id.clone(),
                ..Line::default()
            });
            known.created = line.created.or(known.created);
            known.tasks = line.tasks.or(known.tasks);
            known.class = line.class;
        }
        Self { lines }
    }

    /// Returns the row of `folder`; `None` if it holds no experiment, or none yet.
    pub(super) fn row(&mut self, name: &str, folder: &ExperimentFolder) -> Option<Row> {
        let known = self.lines.get(&folder.id);
        if let Some(Line {
            created: Some(created),
            tasks: Some(tasks),
            class: Some(class),
            ..
        }) = known
        {
            return Some(Row {
                name: name.to_owned(),
                id: folder.id.clone(),
                created: *created,
                tasks: *tasks,
                state: state_name(false, Some(*class)),
            });
        }
        let alive = folder.is_alive();
        let record = match ExperimentRecord::read(&folder.dir) {
            Ok(record) => Some(record),
            Err(RunError::Experiment(ExperimentError::File { source, .. }))
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return None;
            }
            Err(_) => None,
        };
        let class = folder.timeline().ok().and_then(|timeline| timeline.class);
        Some(Row {
            name: name.to_owned(),
            id: folder.id.clone(),
            created: record.as_ref().map_or(0, |record| record.created),
            tasks: record.as_ref().map_or(0, |record| record.experiment.tasks.len()),
            state: if record.is_some() { state_name(alive, class) } else { "damaged" },
        })
    }
}

/// Appends that `record` started, or ended with exit code `class`. A line is short enough to be written atomically, so
/// launchers do not disturb each other. If it cannot be written, readers fall back to the folder.
pub(super) fn note(home: &Path, record: &ExperimentRecord, class: Option<ExitClass>) {
    let line = Line {
        format: INDEX_FORMAT,
        id: record.id.clone(),
        created: Some(record.created),
        tasks: Some(record.experiment.tasks.len()),
        class,
    };
    let written = serde_json::to_string(&line).map_err(std::io::Error::from).and_then(|text| {
        let mut file = OpenOptions::new().create(true).append(true).open(home.join(INDEX_FILE))?;
        file.write_all(format!("{text}\n").as_bytes())
    });
    if let Err(error) = written {
        tracing::debug!(%error, "cannot update the index of experiments");
    }
}
