//! Handles of Slurm jobs.

use std::path::{Path, PathBuf};

use crate::job::JobHandle;

const SCHEME: &str = "slurm://";

/// A Slurm job as its handle names it: `slurm://PLACE/ID<absolute job folder>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlurmJob {
    /// The machine that submitted it; empty for this machine.
    pub(super) place: String,
    /// Number of the job, of a task of an array, or of a task of a group: `123`, `123_4`, `123+4`.
    pub(super) id: String,
    /// The job's folder.
    pub(super) dir: PathBuf,
}

impl SlurmJob {
    /// Parses a handle; `None` if it is not that of a Slurm job.
    pub(super) fn parse(handle: &JobHandle) -> Option<Self> {
        let (place, rest) = handle.0.strip_prefix(SCHEME)?.split_once('/')?;
        let (id, _) = rest.split_once('/')?;
        let dir = rest.get(id.len()..)?;
        is_job_id(id).then(|| Self {
            place: place.to_owned(),
            id: id.to_owned(),
            dir: dir.into(),
        })
    }

    /// Returns the handle.
    pub(super) fn handle(&self) -> JobHandle {
        let Self { place, id, dir } = self;
        JobHandle(format!("{SCHEME}{place}/{id}{}", dir.display()))
    }

    /// Returns the path of a file in the job's folder.
    pub(super) fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the number of the job, without that of a task.
    pub(super) fn base_id(&self) -> &str {
        self.id.split(['_', '+']).next().unwrap_or_default()
    }

    /// Returns the number by which Slurm knows it: a task of a group is a step of its job.
    pub(super) fn slurm_id(&self) -> &str {
        self.id.split('+').next().unwrap_or_default()
    }

    /// Returns true if it is a task of a group.
    pub(super) fn is_in_group(&self) -> bool {
        self.id.contains('+')
    }
}

/// Returns true if `text` is the number of a job or of a task. Nothing else is passed to Slurm's programs.
pub(super) fn is_job_id(text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once(['_', '+']) {
        Some((job, task)) => is_number(job) && is_number(task),
        None => is_number(text),
    }
}

/// Returns the Slurm number in a handle, for messages: `12` or `12_3`. The tasks of a group have that of their job.
pub fn job_number(handle: &JobHandle) -> Option<String> {
    SlurmJob::parse(handle).map(|job| job.slurm_id().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_name_place_number_and_folder() {
        for (place, id, dir) in [
            ("", "1234", "/home/a/runs/x"),
            ("alice@login.example.org:22", "5_17", "/scratch/alice/a b"),
            ("", "5+1", "/scratch/pair/b"),
        ] {
            let job = SlurmJob {
                place: place.into(),
                id: id.into(),
                dir: dir.into(),
            };
            assert_eq!(SlurmJob::parse(&job.handle()), Some(job));
        }
        for bad in [
            "",
            "slurm://",
            "slurm:///",
            "slurm:///12",
            "slurm:///x/dir",
            "slurm:///1;2/dir",
            "local:///12/dir",
            "slurm:///_1/d",
        ] {
            assert_eq!(SlurmJob::parse(&JobHandle(bad.into())), None, "{bad}");
        }
    }
}
