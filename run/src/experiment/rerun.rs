//! Reruns of experiments from the store alone.

use std::{collections::BTreeMap, fs};

use super::{
    folder::ExperimentFolder,
    git,
    prepare::hash,
    programs::{Programs, short},
    record::{ExperimentRecord, RECORD_FORMAT},
};
use crate::{environment, error::RunError, runtime};

/// Returns the record of a new experiment that reruns the one in `folder`.
pub(super) fn rerun_record(folder: &ExperimentFolder) -> Result<ExperimentRecord, RunError> {
    let old = ExperimentRecord::read(&folder.dir)?;
    Ok(ExperimentRecord {
        format: RECORD_FORMAT,
        id: String::new(),
        created: environment::unix_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rerun_of: Some(old.id.clone()),
        data: BTreeMap::new(),
        ..old
    })
}

impl ExperimentFolder {
    /// Returns a sentence for each thing that has changed since the experiment was started: programs, commit and changes
    /// of the working directory, data, script files.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn differences(&self) -> Result<Vec<String>, RunError> {
        differences(self, &ExperimentRecord::read(&self.dir)?)
    }
}

fn differences(folder: &ExperimentFolder, old: &ExperimentRecord) -> Result<Vec<String>, RunError> {
    let mut found = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    if old.version != version {
        found.push(format!("neva-run was {}, and is {version}", old.version));
    }
    let then = (Programs::read(&folder.dir)?, git::read(&folder.dir)?);
    let now = runtime()?.block_on(async {
        let programs = async { (then.0.is_some()).then_some(Programs::current(old.has_finetunes()).await) };
        tokio::join!(programs, git::state(&old.working_directory))
    });
    if let (Some(then), Some(now)) = (then.0, now.0) {
        found.extend(then.differences(&now));
    }
    if let (Some(then), (now, _)) = (then.1, now.1) {
        if then.commit != now.commit {
            found.push(format!(
                "the commit of the working directory was {}, and is {}",
                short(then.commit.as_deref()),
                short(now.commit.as_deref())
            ));
        }
        if then.diff_hash != now.diff_hash {
            found.push("the uncommitted changes in the working directory are different".to_owned());
        }
    }
    // Data that did not exist is created by a task.
    for (path, then) in old.data.iter().filter(|(_, then)| then.is_some()) {
        let now = hash(path);
        if *then != now {
            let what = if now.is_some() { "has changed" } else { "no longer exists" };
            found.push(format!("the data in {} {what}", path.display()));
        }
    }
    for (path, text) in &old.scripts {
        if fs::read_to_string(path).is_ok_and(|now| now != *text) {
            found.push(format!("the script {} has changed; the recorded text runs", path.display()));
        }
    }
    Ok(found)
}
