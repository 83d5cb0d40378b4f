//! Where experiments are kept: `HOME/experiments/NAME/ID/`.
//!
//! A folder is made by its launcher with an exclusive `mkdir`, so that any number of them may start at once.
//! Everything that is known of an experiment lies in its folder; `HOME/index.jsonl` only spares the reading of
//! ten thousand of them, and may be removed at any time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::civil::DateTime;
use neva_schemas::env;

use super::{
    error::ExperimentError,
    folder::{ExperimentFolder, state_name},
    index::{Index, Row},
    record::{RECORD_FILE, file_error},
};
use crate::{environment, error::RunError};

/// Folder of the store in the user's home, where no variable names another.
const DEFAULT_HOME: &str = ".neva_run";

/// Most experiments of one name that start in the same second.
const MAX_TWINS: u32 = 10_000;

/// A store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// The store in the folder `home`, which need not be there yet.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// The user's: `NEVA_RUN_HOME`, else `NEMORUN_HOME`, else `~/.neva_run`.
    ///
    /// # Errors
    /// None of these is known.
    pub fn of_user() -> Result<Self, RunError> {
        let named = |name| environment::variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = named(env::NEVA_RUN_HOME).or_else(|| named(env::NEMORUN_HOME));
        let home = home.or_else(|| named(env::HOME).map(|home| home.join(DEFAULT_HOME)));
        let home = home.ok_or(ExperimentError::NoHome)?;
        Ok(Self::new(std::path::absolute(&home).map_err(file_error("find", &home))?))
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Makes the folder of a new experiment, which is nobody else's.
    pub(super) fn create(&self, name: &str, now: DateTime) -> Result<ExperimentFolder, RunError> {
        let parent = self.experiments().join(name);
        let first = format!("{name}_{}", now.strftime("%Y-%m-%d_%H-%M-%S"));
        for twin in 0..MAX_TWINS {
            let id = if twin == 0 { first.clone() } else { format!("{first}-{twin}") };
            let dir = parent.join(&id);
            // Somebody who removes the last of this name takes the folder of the name away, too.
            let made = (0..MAX_TWINS).find_map(|_| {
                let made = fs::create_dir_all(&parent).and_then(|()| fs::create_dir(&dir));
                made.map_or_else(
                    |error| (error.kind() != io::ErrorKind::NotFound).then_some(Err(error)),
                    |()| Some(Ok(())),
                )
            });
            match made.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) {
                Ok(()) => return Ok(ExperimentFolder { dir, id }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.exists() => {}
                Err(error) => return Err(file_error("create", &dir)(error)),
            }
        }
        Err(file_error("create", &parent.join(first))(io::ErrorKind::AlreadyExists.into()))
    }

    /// The experiment with the id `asked`, else the latest with that name.
    ///
    /// # Errors
    /// There is none, or the store cannot be read.
    pub fn find(&self, asked: &str) -> Result<ExperimentFolder, RunError> {
        // Neither is a path.
        if !asked.is_empty() && !asked.contains(['/', '\0']) && asked != ".." {
            let names = self.names()?;
            let with_id = names
                .iter()
                .find(|name| self.experiments().join(name).join(asked).join(RECORD_FILE).exists());
            if let Some(name) = with_id {
                return Ok(self.folder(name, asked));
            }
            if names.iter().any(|name| name == asked)
                && let Some(latest) = self.rows(vec![asked.to_owned()])?.first()
            {
                return Ok(self.folder(asked, &latest.id));
            }
        }
        Err(self.unknown(asked)?)
    }

    fn unknown(&self, asked: &str) -> Result<RunError, RunError> {
        let rows = self.rows(self.names()?)?;
        let known = rows.iter().flat_map(|row| [row.name.as_str(), row.id.as_str()]);
        let near = known.map(|name| (strsim::damerau_levenshtein(name, asked), name)).min();
        let nearest = near
            .filter(|(distance, _)| *distance <= asked.len() / 3)
            .map(|(_, name)| name.to_owned());
        Ok(ExperimentError::Unknown {
            asked: asked.to_owned(),
            home: self.home.clone(),
            nearest,
        }
        .into())
    }

    /// The experiments of `name`, or all; the latest first.
    ///
    /// # Errors
    /// The store cannot be read, or there is none of this name.
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

    /// The latest experiment of `name`, where its launcher left it before its end.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn interrupted(&self, name: &str) -> Result<Option<String>, RunError> {
        // Ids end in a date.
        let latest = entries(&self.experiments().join(name))?.pop();
        let row = latest.and_then(|id| Index::read(&self.home).row(name, &self.folder(name, &id)));
        Ok(row.filter(|row| row.state == state_name(false, None)).map(|row| row.id))
    }

    /// Removes an experiment that nobody runs.
    ///
    /// # Errors
    /// A launcher has it, or its folder cannot be removed.
    pub fn remove(&self, folder: &ExperimentFolder) -> Result<(), RunError> {
        let lock = folder.lock()?;
        // First what makes it an experiment: what is left of a removal that did not come to its end is none.
        let failed = |path: PathBuf| move |error| file_error("remove", &path)(error);
        match fs::remove_file(folder.dir.join(RECORD_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(folder.dir.join(RECORD_FILE))(error)),
            _ => {}
        }
        fs::remove_dir_all(&folder.dir).map_err(failed(folder.dir.clone()))?;
        drop(lock);
        if let Some(parent) = folder.dir.parent() {
            // Only the last of a name leaves an empty folder.
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

/// Names in `folder`; none where it is not there.
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
