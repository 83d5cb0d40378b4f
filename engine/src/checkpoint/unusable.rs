//! Checkpoints that a resume skips. A run must not silently start over because of them.

use super::fault::{Fault, UnusableCheckpoint};
use super::folder::is_gone;
use super::save::mark_damaged;
use crate::error::EngineError;
use neva_schemas::Problem;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Most checkpoints that a refusal lists.
const LISTED: usize = 5;

/// Skipped checkpoints, by path.
#[derive(Default)]
pub(super) struct UnusableCheckpoints(RefCell<BTreeMap<PathBuf, UnusableCheckpoint>>);

impl UnusableCheckpoints {
    pub(super) fn add(&self, skipped: UnusableCheckpoint) {
        let known = self.0.borrow_mut().insert(skipped.path.clone(), skipped.clone()).is_some();
        // Folders may be scanned several times.
        if !known {
            tracing::warn!("skipping a checkpoint: {skipped}");
        }
    }

    /// Renames the damaged checkpoints of the run's own folder, so that no save replaces them.
    pub(super) fn mark_damaged(&self, own: &Path) {
        let all = self.0.borrow();
        let damaged = all.values().filter(|skipped| skipped.fault == Fault::Damaged);
        damaged
            .filter(|skipped| skipped.path.parent() == Some(own))
            .for_each(|skipped| mark_damaged(&skipped.path));
    }

    /// Returns the error that prevents starting over, if there is an unusable checkpoint.
    pub(super) fn refusal(&self) -> Option<EngineError> {
        let all = self.0.borrow();
        let there: Vec<_> = all
            .values()
            .filter(|skipped| skipped.fault != Fault::Unfinished && !is_gone(&skipped.path))
            .collect();
        if there.is_empty() {
            return None;
        }
        let mut text = "no checkpoint of this run can be used".to_owned();
        for skipped in there.iter().take(LISTED) {
            let _ = write!(text, "\n    {skipped}");
        }
        if there.len() > LISTED {
            let _ = write!(text, "\n    and {} more", there.len() - LISTED);
        }
        text += "\n ";
        Some(EngineError::Run(vec![Problem::error("finetune.resume", text).help(
            "make one of them readable or whole again, or set finetune.resume.resume_ignore_damaged=true to start over",
        )]))
    }
}
