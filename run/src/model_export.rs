//! Export of a checkpoint from Rust, as NeMo's `llm.export_ckpt`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{error::RunError, program};

/// The fields of the rank program's answer that are read.
#[derive(Deserialize)]
struct Exported {
    dir: PathBuf,
}

/// Exports the checkpoint in `path` to `output_path`, by default to `<path>/<target>`. `target` is a format of
/// `neva-run export`: `hf`, `hf-peft`, `neva` or `llava`. Returns the folder.
///
/// The rank program reads and writes the tensors; its log is on standard error.
///
/// # Errors
/// There is no rank program, or the export fails: the reason is on standard error.
pub fn export_ckpt(path: &Path, target: &str, output_path: Option<&Path>) -> Result<PathBuf, RunError> {
    let program = program::find_here()?;
    let failed = |reason: String| RunError::RankProgram {
        program: program.clone(),
        reason,
    };
    let mut command = Command::new(&program);
    command.arg("export").arg("--json").arg(format!("--format={target}"));
    if let Some(output) = output_path {
        command.arg("--output").arg(output);
    }
    let output = command
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("the export of {} failed: {}", path.display(), output.status)));
    }
    let exported: Exported = serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("it did not print JSON: {error}")))?;
    Ok(exported.dir)
}
