//! What the script needs of a task: ranks or a script.

use std::{collections::BTreeMap, path::Path};

use neva_schemas::{PLAN_FILE, PackagerConfig, SlurmExecutorConfig, TunnelConfig};

use super::text::{path_text, quoted};
pub use crate::task_set::Work;
use crate::{error::ExecutorError, submission::JobKind};

/// File in a script's folder with its text.
pub(super) const SCRIPT_FILE: &str = "script";
/// Folder of the packaged code within the job's folder.
pub(super) const CODE: &str = "code";
/// Lines that give the task in `dir` the code of its job in `root`. Links, since a copy of each file would take long.
pub(super) const COPY_CODE: &str = r#"if [ -e "$root/code" ] && [ ! -e "$dir/code" ]; then
    cp -al "$root/code" "$dir/code" || fail 3 "cannot copy $root/code to $dir"
fi
"#;

impl<'a> Work<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Ranks(plan) => &plan.name,
            Self::Script(script) => &script.name,
        }
    }

    pub(super) fn dir(self) -> &'a Path {
        match self {
            Self::Ranks(plan) => &plan.run_dir,
            Self::Script(script) => &script.run_dir,
        }
    }

    pub(super) fn env(self) -> &'a BTreeMap<String, String> {
        match self {
            Self::Ranks(plan) => &plan.env,
            Self::Script(script) => &script.env,
        }
    }

    pub(super) fn kind(self) -> JobKind {
        match self {
            Self::Ranks(_) => JobKind::Ranks,
            Self::Script(_) => JobKind::Script,
        }
    }

    /// Returns the name and the text of its file.
    pub(super) fn file(self) -> Result<(&'static str, String), ExecutorError> {
        Ok(match self {
            Self::Ranks(plan) => (PLAN_FILE, serde_json::to_string_pretty(plan)? + "\n"),
            Self::Script(script) => (SCRIPT_FILE, script.text.clone()),
        })
    }

    /// Returns the working directory for bash: the packaged code; else that of a script whose files are on this machine;
    /// else the task's folder.
    pub(super) fn working_directory(self, config: &SlurmExecutorConfig) -> Result<String, ExecutorError> {
        Ok(match (self, &config.tunnel) {
            _ if has_code(config) => format!("\"$dir/{CODE}\""),
            (Self::Script(script), TunnelConfig::Local(_)) => quoted(&path_text(&script.working_directory)?),
            _ => "\"$dir\"".to_owned(),
        })
    }
}

/// Returns true if the packager brings code to the cluster.
pub(super) fn has_code(config: &SlurmExecutorConfig) -> bool {
    !matches!(&config.packager, PackagerConfig::None(none) if none.symlink_from_remote_dir.is_none())
}
