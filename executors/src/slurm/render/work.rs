//! What the script needs of a task: ranks or a script.

use neva_schemas::{PackagerConfig, SlurmExecutorConfig, TunnelConfig};

use super::text::{path_text, quoted};
use crate::error::ExecutorError;
pub(super) use crate::work::SCRIPT_FILE;
pub use crate::work::Work;

/// Folder of the packaged code within the job's folder.
pub(super) const CODE: &str = "code";
/// Lines that give the task in `dir` the code of its job in `root`, unless it has that already.
pub(super) const COPY_CODE: &str = include_str!("bash/copy_code.sh");

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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

    use super::COPY_CODE;

    /// Packs a file as code of the job.
    fn pack(root: &Path, text: &str) {
        let code = root.join("code");
        let _ = fs::remove_dir_all(&code);
        fs::create_dir_all(code.join("lib")).unwrap();
        fs::write(code.join("lib/a"), text).unwrap();
        fs::write(code.join(".neva-code"), format!("hash of {text}")).unwrap();
    }

    /// Runs the lines themselves.
    #[test]
    fn a_task_has_the_code_of_its_submission() {
        let folder = tempfile::tempdir().unwrap();
        let (root, dir) = (folder.path().join("the job"), folder.path().join("the task"));
        fs::create_dir(&dir).unwrap();
        let copied = || {
            let script = format!("fail() {{ echo \"$2\" >&2; exit \"$1\"; }}\nroot=$1 dir=$2\n{COPY_CODE}");
            let mut bash = Command::new("bash");
            let output = bash.args(["-c", &script, "bash"]).args([&root, &dir]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            fs::read_to_string(dir.join("code/lib/a")).unwrap()
        };
        pack(&root, "first");
        assert_eq!(copied(), "first");
        // A task that starts again keeps its files.
        fs::write(dir.join("code/own"), "").unwrap();
        assert_eq!(copied(), "first");
        assert!(dir.join("code/own").exists() && !root.join("code/own").exists());
        pack(&root, "second");
        assert_eq!(copied(), "second");
        assert!(!dir.join("code/own").exists() && !dir.join("code.part").exists());
        // A folder of the cluster is linked.
        let there = folder.path().join("there");
        pack(&there, "third");
        fs::remove_dir_all(root.join("code")).unwrap();
        symlink(there.join("code"), root.join("code")).unwrap();
        assert_eq!(copied(), "third");
        assert!(dir.join("code").is_symlink());
        assert_eq!(copied(), "third");
    }
}
