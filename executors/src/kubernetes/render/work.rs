//! Folders of a job, as its pods see them.

use neva_schemas::KubernetesExecutorConfig;

pub(super) use crate::work::{SCRIPT_FILE, Work};
use crate::{error::ExecutorError, submission::path_text};

impl Work<'_> {
    /// Returns the job's folder as text.
    pub(super) fn dir_text(self) -> Result<String, ExecutorError> {
        path_text(self.dir())
    }

    /// Returns the working directory: a script's own if a volume has it, else the job's folder.
    pub(super) fn folder(self, config: &KubernetesExecutorConfig) -> Result<String, ExecutorError> {
        if let Self::Script(script) = self {
            let folder = path_text(&script.working_directory)?;
            if config.volume_of(&folder).is_some() {
                return Ok(folder);
            }
        }
        self.dir_text()
    }
}
