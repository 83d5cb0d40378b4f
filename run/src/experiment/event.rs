//! Timeline of an experiment: a file with one line for each change, from which every state is derived. A launcher that
//! dies leaves at worst an incomplete last line, which is ignored.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use neva_executors::{JobFailure, JobHandle};
use neva_schemas::{ExitClass, RunReport};
use serde::{Deserialize, Serialize};

use super::report::{TaskReport, TaskState};

/// File in an experiment's folder.
pub(super) const EVENTS_FILE: &str = "events.jsonl";

/// Format number of the timeline. A reader refuses others.
pub(super) const EVENTS_FORMAT: u32 = 1;

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Time in milliseconds since the epoch.
    pub unix_ms: u64,
    /// The task that changed; `None` for the experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The change.
    pub change: Change,
}

/// A change of an experiment or a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// A launcher started.
    Launched {
        /// Format number of the events that follow.
        format: u32,
        /// Process id of the launcher.
        pid: u32,
        /// Version of the launcher.
        version: String,
    },
    /// A job was submitted for the task.
    Submitted {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// The job.
        job: JobHandle,
    },
    /// An attempt failed and is followed by another.
    Retried {
        /// The attempt that failed.
        attempt: u32,
        /// Its failure.
        failure: Box<JobFailure>,
        /// Time until the next attempt, in milliseconds.
        pause_ms: u64,
    },
    /// The task will run again because the experiment was resumed.
    Reset,
    /// The task ended.
    Ended {
        /// Its final state.
        state: TaskState,
        /// Report of a fine-tune.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Box<RunReport>>,
    },
    /// Every task ended.
    Finished {
        /// The exit code.
        class: ExitClass,
    },
}

/// State of an experiment, as derived from its events.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    /// Tasks with at least one event.
    pub(super) tasks: BTreeMap<String, TaskReport>,
    /// The exit code, if the experiment finished after its latest launch.
    pub(super) class: Option<ExitClass>,
    /// Process id of the latest launcher.
    pub(super) launcher: Option<u32>,
    /// Format number of a launch that wrote an unsupported format.
    pub(super) foreign: Option<u32>,
    /// Lines that are not events, counted from 1, without an incomplete last line.
    pub(super) broken: Vec<usize>,
}

impl Timeline {
    /// Reads the file. A missing file has no events.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut timeline = Self::default();
        let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            match serde_json::from_slice::<Event>(line) {
                Ok(event) => timeline.apply(event),
                // Empty, or the incomplete last line of a launcher that died.
                Err(_) if line.trim_ascii().is_empty() || lines.peek().is_none() => {}
                Err(_) => timeline.broken.push(index + 1),
            }
        }
        timeline
    }

    pub(super) fn apply(&mut self, event: Event) {
        let Some(name) = event.task else {
            match event.change {
                Change::Launched { format, pid, .. } => {
                    (self.launcher, self.class) = (Some(pid), None);
                    self.foreign = self.foreign.or((format != EVENTS_FORMAT).then_some(format));
                }
                Change::Finished { class } => self.class = Some(class),
                _ => {}
            }
            return;
        };
        let task = self.tasks.entry(name).or_insert_with_key(|name| TaskReport::new(name));
        match event.change {
            Change::Submitted { attempt, job } => {
                task.state = TaskState::Running;
                task.attempts = attempt;
                task.started.get_or_insert(event.unix_ms);
                (task.ended, task.job) = (None, Some(job));
            }
            Change::Reset => *task = TaskReport::new(&task.name),
            Change::Ended { state, report } => {
                (task.state, task.report) = (state, report.map(|report| *report));
                task.ended = Some(event.unix_ms);
            }
            Change::Launched { .. } | Change::Retried { .. } | Change::Finished { .. } => {}
        }
    }
}

/// Writer of the timeline. Bytes that could not be written, as on a full disk, are written with the next event.
#[derive(Debug)]
pub(super) struct EventLog {
    path: PathBuf,
    file: File,
    unwritten: Vec<u8>,
}

impl EventLog {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Appending to an incomplete line would damage the next event.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut unwritten = Vec::new();
        match &bytes[whole..] {
            [] => {}
            line if serde_json::from_slice::<Event>(line).is_ok() => unwritten.push(b'\n'),
            _ => file.set_len(whole as u64)?,
        }
        Ok(Self { path, file, unwritten })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `events` and syncs the file to disk.
    pub(super) fn append(&mut self, events: &[Event]) -> io::Result<()> {
        for event in events {
            serde_json::to_writer(&mut self.unwritten, event)?;
            self.unwritten.push(b'\n');
        }
        while !self.unwritten.is_empty() {
            let written = self.file.write(&self.unwritten)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.unwritten.drain(..written);
        }
        self.file.sync_data()
    }
}
