//! `metrics.jsonl`: one line per step and validation.

use crate::error::TrackError;
use crate::metrics::{StepMetrics, ValidationMetrics};
use crate::{Logger, Outcome};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The metrics file, with a single writer.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for a run that starts at `first_step`. Lines of that step and later ones, left by an attempt that did
    /// not reach a checkpoint, and an incomplete last line are removed.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(path: &Path, first_step: u64) -> Result<Self, TrackError> {
        if path.exists() {
            let text = std::fs::read(path).map_err(TrackError::io("read", path))?;
            let kept: Vec<u8> = text
                .split_inclusive(|byte| *byte == b'\n')
                .filter(|line| line.ends_with(b"\n") && step_of(line).is_some_and(|step| step < first_step))
                .flatten()
                .copied()
                .collect();
            if kept.len() < text.len() {
                let temporary = path.with_extension("writing");
                std::fs::write(&temporary, kept)
                    .and_then(|()| std::fs::rename(&temporary, path))
                    .map_err(TrackError::io("write", path))?;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(TrackError::io("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a line in one write, so that a reader never sees an incomplete one.
    fn append(&mut self, metrics: &impl Serialize) -> Result<(), TrackError> {
        let line = serde_json::to_vec(metrics).map_err(std::io::Error::from);
        line.and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        })
        .map_err(TrackError::io("write", &self.path))
    }
}

impl Logger for MetricsFile {
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError> {
        self.append(metrics)
    }

    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError> {
        self.append(metrics)
    }

    fn finish(&mut self, _outcome: Outcome) -> Result<(), TrackError> {
        Ok(())
    }
}

fn step_of(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("step")?.as_u64()
}
