//! The folder that a resume searches, and the newest run in it.

use super::abandoned_saves::remove_abandoned_saves;
use super::fault::{Fault, UnusableCheckpoint};
use super::folder::{CheckpointFolder, is_absent, is_gone};
use super::newest::{checkpoints_in, newest_checkpoint};
use super::unusable::UnusableCheckpoints;
use crate::error::EngineError;
use neva_schemas::{AutoResume, Problem};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder that `resume_if_exists` searches: that of all runs of this name, or `resume_from_directory`, a folder of
/// checkpoints, of a run, or of runs.
pub(super) struct SearchRoot<'a> {
    path: &'a Path,
    /// The run's own folder of checkpoints, which was searched before.
    own: &'a Path,
    named: bool,
}

/// A folder of checkpoints.
struct RunCheckpoints {
    parent: PathBuf,
    /// Start time in the name of the run's folder, `2026-11-24_08-41-17`, and the number of a twin.
    date: Option<(String, u32)>,
    /// Time at which its last checkpoint was written, if it holds one.
    written: Option<SystemTime>,
}

impl<'a> SearchRoot<'a> {
    pub(super) fn of(resume: &'a AutoResume, run_dir: &'a Path, own: &'a Path) -> Self {
        let named = resume.resume_from_directory.as_deref();
        Self {
            path: named.unwrap_or_else(|| run_dir.parent().unwrap_or(run_dir)),
            own,
            named: named.is_some(),
        }
    }

    /// Returns true if the user named a folder that does not exist.
    pub(super) fn is_missing(&self) -> bool {
        self.named && std::fs::metadata(self.path).is_err_and(|error| is_absent(&error))
    }

    /// Returns the reason, in words, why there is nothing to resume from.
    pub(super) fn nothing(&self) -> String {
        let path = self.path.display();
        match self.is_missing() {
            true => format!("resume_from_directory {path} does not exist"),
            false => format!("there is no checkpoint under {path}"),
        }
    }

    /// Returns the error of a run that must not start without a checkpoint.
    pub(super) fn refusal(&self) -> EngineError {
        let (setting, mut help) = match self.is_missing() {
            true => ("finetune.resume.resume_from_directory", "name a folder that exists, or ".to_owned()),
            false => ("finetune.resume.resume_if_exists", String::new()),
        };
        if CheckpointFolder::is_checkpoint(self.path) {
            help = format!(
                "to resume from this one set finetune.resume.resume_from_path={}, or ",
                self.path.display()
            );
        }
        help += "set finetune.resume.resume_ignore_no_checkpoint=true to start from the beginning";
        EngineError::Run(vec![Problem::error(setting, self.nothing()).help(help)])
    }

    /// Returns the checkpoint with the most steps of the newest run that has a usable one.
    pub(super) fn newest(&self, unusable: &UnusableCheckpoints) -> Option<CheckpointFolder> {
        let runs = self.runs(unusable);
        if !self.named {
            runs.iter().for_each(|run| remove_abandoned_saves(&run.parent));
        }
        let mut each = runs.iter();
        let found = each.find_map(|run| newest_checkpoint(std::slice::from_ref(&run.parent), |skipped| unusable.add(skipped)))?;
        let older = each.flat_map(|run| checkpoints_in(&run.parent));
        let more = older.filter(|other| other.steps_done() > found.steps_done());
        if let Some(more) = more.max_by_key(CheckpointFolder::steps_done) {
            tracing::warn!(
                "the newest run has {} after {} steps; an older run has {} after {} steps: to resume from that one, add \
                 `--set finetune.resume.resume_from_path={}`",
                found.path.display(),
                found.steps_done(),
                more.path.display(),
                more.steps_done(),
                more.path.display(),
            );
        }
        Some(found)
    }

    /// Returns the folders of checkpoints, newest run first.
    fn runs(&self, unusable: &UnusableCheckpoints) -> Vec<RunCheckpoints> {
        let mut parents = Vec::new();
        match std::fs::read_dir(self.path) {
            Ok(entries) => {
                // A file beside the runs is not a run.
                let folders = entries
                    .filter_map(Result::ok)
                    .map(|entry| entry.path())
                    .filter(|path| !path.is_file());
                parents.extend(folders.map(|run| run.join("checkpoints")));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => unusable.add(UnusableCheckpoint {
                path: self.path.to_owned(),
                fault: Fault::Unreadable,
                reason: format!("cannot be read: {error}"),
            }),
        }
        if self.named {
            parents.extend([self.path.to_owned(), self.path.join("checkpoints")]);
        }
        let mut runs: Vec<_> = parents
            .into_iter()
            .filter(|parent| !is_gone(parent) && parent != self.own)
            .map(RunCheckpoints::of)
            .collect();
        // A folder's name survives copies. If one has another name, the file system's time decides.
        if runs.iter().filter(|run| run.written.is_some()).all(|run| run.date.is_some()) {
            runs.sort_by(|a, b| (&b.date, &b.parent).cmp(&(&a.date, &a.parent)));
        } else {
            runs.sort_by(|a, b| (b.written, &b.parent).cmp(&(a.written, &a.parent)));
        }
        runs
    }
}

impl RunCheckpoints {
    fn of(parent: PathBuf) -> Self {
        let run: &Path = match parent.ends_with("checkpoints") {
            true => parent.parent().unwrap_or(&parent),
            false => &parent,
        };
        let date = run.file_name().and_then(|name| date(name.to_str()?));
        let tables = std::fs::read_dir(&parent).into_iter().flatten().filter_map(Result::ok);
        let tables = tables.map(|entry| entry.path().join("checkpoint.json").metadata());
        let written = tables.filter_map(|table| table.and_then(|table| table.modified()).ok()).max();
        Self { date, written, parent }
    }
}

/// Parses the name of a run's folder: `2026-11-24_08-41-17`, with the suffix `-1`, `-2` and so on for twins.
fn date(name: &str) -> Option<(String, u32)> {
    const PATTERN: &[u8] = b"dddd-dd-dd_dd-dd-dd";
    let (date, rest) = name.split_at_checked(PATTERN.len())?;
    let fits = |(byte, expected): (u8, &u8)| match expected {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    if !date.bytes().zip(PATTERN).all(fits) {
        return None;
    }
    let twin = match rest.strip_prefix('-') {
        Some(twin) => twin.parse().ok()?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    Some((date.to_owned(), twin))
}
