//! What the script needs of a task: ranks or a script.

use neva_schemas::{PackagerConfig, SlurmExecutorConfig, TunnelConfig};

use super::text::{path_text, quoted};
use crate::error::ExecutorError;
pub(super) use crate::work::SCRIPT_FILE;
pub use crate::work::Work;

/// Folder of the packaged code within the job's folder.
pub(super) const CODE: &str = "code";
/// Lines that give the task in `dir` the code of its job in `root`. Links, since a copy of each file would take long.
pub(super) const COPY_CODE: &str = r#"if [ -e "$root/code" ] && [ ! -e "$dir/code" ]; then
    cp -al "$root/code" "$dir/code" || fail 3 "cannot copy $root/code to $dir"
fi
"#;

impl Work<'_> {
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
