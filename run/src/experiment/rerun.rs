//! Experiments that are done again, from the store alone.

use std::fs;

use super::{
    folder::ExperimentFolder,
    git,
    launcher::VERSIONS_FILE,
    prepare::hash,
    record::{ExperimentRecord, RECORD_FORMAT},
};
use crate::{
    environment,
    error::RunError,
    program::{self, RankVersion},
    runtime,
};

/// An experiment that is about to be done again.
#[derive(Debug, Clone)]
pub(crate) struct Repetition {
    /// What it is.
    pub(crate) record: ExperimentRecord,
    /// What is not as it was then, a sentence each.
    pub(crate) differences: Vec<String>,
}

/// The experiment in `folder` again: configuration and texts of scripts as they were, programs and data as they are.
///
/// # Errors
/// A record that cannot be read.
pub(crate) fn repetition(folder: &ExperimentFolder) -> Result<Repetition, RunError> {
    let old = ExperimentRecord::read(&folder.dir)?;
    let differences = differences(folder, &old)?;
    let data = old.data.keys().map(|path| (path.clone(), hash(path))).collect();
    let record = ExperimentRecord {
        format: RECORD_FORMAT,
        id: String::new(),
        created: environment::unix_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rerun_of: Some(old.id.clone()),
        data,
        ..old
    };
    Ok(Repetition { record, differences })
}

/// What is not as it was when `old`, the experiment in `folder`, was started.
fn differences(folder: &ExperimentFolder, old: &ExperimentRecord) -> Result<Vec<String>, RunError> {
    let mut found = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    if old.version != version {
        found.push(format!("neva-run was {}, and is {version}", old.version));
    }
    let versions: Option<RankVersion> = fs::read(folder.dir.join(VERSIONS_FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    runtime()?.block_on(async {
        if let Some(then) = versions
            && let Ok(program) = program::find_here()
            && let Ok(now) = program::version(&program).await
            && now != then
        {
            found.push(format!(
                "the rank program was {} on libtorch {}, and is {} on {}",
                then.version, then.libtorch, now.version, now.libtorch
            ));
        }
        let then = git::read(&folder.dir);
        let (now, _) = git::state(&old.working_directory).await;
        let short = |commit: &Option<String>| {
            commit
                .as_ref()
                .map_or("none".to_owned(), |commit| commit.chars().take(12).collect())
        };
        if then.commit != now.commit {
            found.push(format!(
                "the commit of the working directory was {}, and is {}",
                short(&then.commit),
                short(&now.commit)
            ));
        }
        if then.diff_hash != now.diff_hash {
            found.push("what is changed in the working directory since its commit is not what it was".to_owned());
        }
    });
    for (path, then) in &old.data {
        let now = hash(path);
        if *then != now {
            let what = if now.is_some() {
                "has other content"
            } else {
                "is not there any more"
            };
            found.push(format!("the data in {} {what}", path.display()));
        }
    }
    for (path, text) in &old.scripts {
        if fs::read_to_string(path).is_ok_and(|now| now != *text) {
            found.push(format!("the script {} has other text; the one that is kept runs", path.display()));
        }
    }
    Ok(found)
}
