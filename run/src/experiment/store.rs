//! Store of experiments: `HOME/experiments/NAME/ID/`.
//!
//! A launcher creates the folder with an exclusive `mkdir`, so that any number of launchers may start at once. All
//! state of an experiment is in its folder. `HOME/index.jsonl` is a cache for long lists and may be removed at any time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::civil::DateTime;
use neva_executors::local::job_processes;
use neva_schemas::env;

use super::{
    error::ExperimentError,
    folder::{ExperimentFolder, Status, state_name},
    index::{Index, Row},
    record::{RECORD_FILE, file_error},
    report::TaskState,
};
use crate::{environment, error::RunError, runtime};

/// Default folder of the store in the user's home.
const DEFAULT_HOME: &str = ".neva_run";

/// Maximum number of experiments of one name that start in the same second.
const MAX_SAME_SECOND: u32 = 10_000;

/// A store of experiments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// Creates a store in the folder `home`, which need not exist yet.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// Returns the user's store: `NEVA_RUN_HOME`, else `NEMORUN_HOME`, else `~/.neva_run`.
    ///
    /// # Errors
    /// None of the variables is set, or the path is not UTF-8.
    pub fn for_user() -> Result<Self, RunError> {
        let named = |variable| environment::path(variable).map(|path| (variable, path));
        let home = named(env::NEVA_RUN_HOME).or_else(|| named(env::NEMORUN_HOME));
        let home = home.or_else(|| named(env::HOME).map(|(variable, home)| (variable, home.join(DEFAULT_HOME))));
        let (variable, home) = home.ok_or(ExperimentError::NoHome)?;
        // Records of experiments are JSON, which can hold UTF-8 paths only.
        if home.to_str().is_none() {
            return Err(ExperimentError::HomeNotText { variable, path: home }.into());
        }
        Ok(Self::new(std::path::absolute(&home).map_err(file_error("find", &home))?))
    }

    /// Returns the folder of the store.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Creates the folder of a new experiment exclusively.
    pub(super) fn create(&self, name: &str, now: DateTime) -> Result<ExperimentFolder, RunError> {
        let parent = self.experiments().join(name);
        let first = format!("{name}_{}", now.strftime("%Y-%m-%d_%H-%M-%S"));
        for number in 0..MAX_SAME_SECOND {
            let id = if number == 0 { first.clone() } else { format!("{first}-{number}") };
            let dir = parent.join(&id);
            // A concurrent removal of the last experiment of this name also removes the parent folder.
            let created = (0..MAX_SAME_SECOND).find_map(|_| {
                let created = fs::create_dir_all(&parent).and_then(|()| fs::create_dir(&dir));
                created.map_or_else(
                    |error| (error.kind() != io::ErrorKind::NotFound).then_some(Err(error)),
                    |()| Some(Ok(())),
                )
            });
            match created.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) {
                Ok(()) => return Ok(ExperimentFolder { dir, id }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.exists() => {}
                Err(error) => return Err(file_error("create", &dir)(error)),
            }
        }
        Err(file_error("create", &parent.join(first))(io::ErrorKind::AlreadyExists.into()))
    }

    /// Returns the experiment with the id `requested`, else the latest one with that name.
    ///
    /// # Errors
    /// There is none, or the store cannot be read.
    pub fn find(&self, requested: &str) -> Result<ExperimentFolder, RunError> {
        // Ids and names are not paths.
        if !requested.is_empty() && !requested.contains(['/', '\0']) && requested != ".." {
            let names = self.names()?;
            let with_id = names
                .iter()
                .find(|name| self.experiments().join(name).join(requested).join(RECORD_FILE).exists());
            if let Some(name) = with_id {
                return Ok(self.folder(name, requested));
            }
            if names.iter().any(|name| name == requested)
                && let Some(latest) = self.rows(vec![requested.to_owned()])?.first()
            {
                return Ok(self.folder(requested, &latest.id));
            }
        }
        Err(self.unknown(requested)?)
    }

    fn unknown(&self, requested: &str) -> Result<RunError, RunError> {
        let rows = self.rows(self.names()?)?;
        let known = rows.iter().flat_map(|row| [row.name.as_str(), row.id.as_str()]);
        let near = known.map(|name| (strsim::damerau_levenshtein(name, requested), name)).min();
        let nearest = near
            .filter(|(distance, _)| *distance <= requested.len() / 3)
            .map(|(_, name)| name.to_owned());
        Ok(ExperimentError::Unknown {
            requested: requested.to_owned(),
            home: self.home.clone(),
            nearest,
        }
        .into())
    }

    /// Returns the experiments of `name`, or all; the latest first.
    ///
    /// # Errors
    /// The store cannot be read, or there is no experiment of this name.
    pub fn list(&self, name: Option<&str>) -> Result<Vec<Row>, RunError> {
        let names = self.names()?;
        let Some(name) = name else { return self.rows(names) };
        let names: Vec<_> = names.into_iter().filter(|known| known == name).collect();
        let rows = self.rows(names)?;
        if rows.is_empty() { Err(self.unknown(name)?) } else { Ok(rows) }
    }

    fn rows(&self, names: Vec<String>) -> Result<Vec<Row>, RunError> {
        let mut index = Index::read(&self.home);
        let mut rows = Vec::new();
        for name in names {
            for id in entries(&self.experiments().join(&name))? {
                let folder = self.folder(&name, &id);
                rows.extend(index.row(&name, &folder));
            }
        }
        rows.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(rows)
    }

    /// Returns the latest experiment of `name` if it was interrupted.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn interrupted(&self, name: &str) -> Result<Option<String>, RunError> {
        // Ids end in a date.
        let latest = entries(&self.experiments().join(name))?.pop();
        let row = latest.and_then(|id| Index::read(&self.home).row(name, &self.folder(name, &id)));
        Ok(row.filter(|row| row.state == state_name(false, None)).map(|row| row.id))
    }

    /// Removes an experiment that is not running.
    ///
    /// # Errors
    /// It is running, one of its tasks outlived a killed launcher, or its folder cannot be removed.
    pub fn remove(&self, folder: &ExperimentFolder) -> Result<(), RunError> {
        let lock = folder.lock()?;
        // An experiment with a damaged record can be removed too.
        if let Ok(status) = folder.status() {
            refuse_running_tasks(folder, &status)?;
        }
        // The record goes first: the rest of an incomplete removal is no experiment.
        let failed = |path: PathBuf| move |error| file_error("remove", &path)(error);
        match fs::remove_file(folder.dir.join(RECORD_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(folder.dir.join(RECORD_FILE))(error)),
            _ => {}
        }
        fs::remove_dir_all(&folder.dir).map_err(failed(folder.dir.clone()))?;
        drop(lock);
        if let Some(parent) = folder.dir.parent() {
            // Succeeds only if this was the last experiment of its name.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    pub(super) fn folder(&self, name: &str, id: &str) -> ExperimentFolder {
        ExperimentFolder {
            dir: self.experiments().join(name).join(id),
            id: id.to_owned(),
        }
    }

    fn names(&self) -> Result<Vec<String>, RunError> {
        entries(&self.experiments())
    }

    fn experiments(&self) -> PathBuf {
        self.home.join("experiments")
    }
}

/// Refuses to remove an experiment whose launcher was killed while a task still runs and writes into the folder.
fn refuse_running_tasks(folder: &ExperimentFolder, status: &Status) -> Result<(), RunError> {
    let running = status.report.tasks.iter().filter(|task| task.state == TaskState::Running);
    for task in running {
        let dir = folder.submitted_dir(&task.name).unwrap_or_else(|| folder.task(&task.name));
        let processes = job_processes(&dir);
        if !processes.is_empty() {
            return Err(ExperimentError::TaskRunning {
                id: folder.id.clone(),
                task: task.name.clone(),
                what: format!(
                    "process {}",
                    processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            }
            .into());
        }
    }
    // A job of a cluster that cannot be asked may be running too.
    for (task, job) in runtime()?.block_on(status.jobs()) {
        let what = match job {
            Ok(job) if job.state.is_end() => continue,
            Ok(job) => format!("its job is {}", job.state.name()),
            Err(reason) => reason,
        };
        let id = folder.id.clone();
        return Err(ExperimentError::TaskRunning { id, task, what }.into());
    }
    Ok(())
}

/// Returns the names in `folder`; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<String>, RunError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(file_error("read", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file_error("read", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
