//! Writer of TensorBoard event files, without TensorFlow.
//!
//! ```text
//! scalars --event--> protobuf message --record--> TFRecord --one write--> events.out.tfevents.*
//! ```

mod event;
mod record;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

use crate::{Logger, Outcome, StepMetrics, TrackError, ValidationMetrics};
use event::Event;

/// An event file. It contains each step when [`Logger::step`] returns, so that a running TensorBoard shows it.
///
/// Tags are the names of [`StepMetrics::scalars`] and [`ValidationMetrics::scalars`]. Values are rounded to 32 bits, as
/// in TensorBoard.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Creates a file in `folder`, which is created if necessary, for a run that starts at `first_step`. TensorBoard shows
    /// only earlier steps of the files of earlier attempts.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(folder: &Path, first_step: u64) -> Result<Self, TrackError> {
        fs::create_dir_all(folder).map_err(TrackError::io("create", folder))?;
        let now = now();
        let (path, file) = new_file(folder, now as u64).map_err(TrackError::io("create an event file in", folder))?;
        let mut board = Self { path, file };
        board.write(&Event::head(now, first_step))?;
        Ok(board)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends events in one write: a reader rarely sees an incomplete record, and then waits for the rest.
    fn write(&mut self, events: &[Event]) -> Result<(), TrackError> {
        let records: Vec<u8> = events.iter().flat_map(|event| record::framed(&event.encode_to_vec())).collect();
        self.file.write_all(&records).map_err(TrackError::io("write", &self.path))
    }
}

impl Logger for TensorBoard {
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError> {
        self.write(&[Event::scalars(now(), metrics.step, &metrics.scalars())])
    }

    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError> {
        self.write(&[Event::scalars(now(), metrics.step, &metrics.scalars())])
    }

    fn finish(&mut self, _outcome: Outcome) -> Result<(), TrackError> {
        Ok(())
    }
}

/// Creates `events.out.tfevents.<seconds>.<host>.<process>.<number>`, the name that TensorBoard expects; it reads files in
/// the order of their names. The number counts the files that this process created in one second.
fn new_file(folder: &Path, seconds: u64) -> io::Result<(PathBuf, File)> {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy().replace('/', "_");
    let process = std::process::id();
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.{host}.{process}.{number}"));
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|file| (path, file)),
        }
    }
}

/// Seconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
