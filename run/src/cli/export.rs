//! Writes a resolved run as a file: `--to-yaml`, `--to-json`, `--to-toml`.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use serde_json::json;

use super::report::Report;
use crate::{
    config::{self, ConfigError, Node, Origin, to_node},
    error::RunError,
    resolve::Resolved,
};

/// Serializer of a file format.
type Writer = fn(&Node) -> Result<String, ConfigError>;

/// Files to write the resolved run to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Export")]
pub(super) struct ExportArgs {
    /// Write the resolved run to a YAML file instead of running it; `-` is standard output. The file is a complete
    /// recipe file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_yaml: Option<PathBuf>,
    /// Like `--to-yaml`, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_json: Option<PathBuf>,
    /// Like `--to-yaml`, as TOML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_toml: Option<PathBuf>,
    /// Overwrite the file if it exists. Ignored by a run, which never asks
    #[arg(long, short)]
    yes: bool,
}

impl ExportArgs {
    /// Returns true if a file was requested.
    pub(super) fn is_requested(&self) -> bool {
        self.to_yaml.is_some() || self.to_json.is_some() || self.to_toml.is_some()
    }

    /// Writes the requested files.
    pub(super) fn write(&self, resolved: &Resolved, report: &mut Report) -> Result<(), RunError> {
        let run = &resolved.run;
        let mut node = to_node(run, Origin::recipe(&run.factory))?;
        // Escapes text that looks like a reference, so that reading the file gives the same text.
        config::escape(&mut node);
        let files: [(&Option<PathBuf>, Writer); 3] = [
            (&self.to_yaml, |node| Ok(config::to_yaml_string(node))),
            (&self.to_json, |node| Ok(config::to_json_string(node))),
            (&self.to_toml, config::to_toml_string),
        ];
        for (file, text) in files.into_iter().filter_map(|(file, text)| Some((file.as_ref()?, text))) {
            let text = text(&node)?;
            if file == Path::new("-") {
                report.result(text.trim_end(), &json!({ "text": text }));
                continue;
            }
            write_file(file, &text, self.yes)?;
            report.result(format_args!("wrote {}", file.display()), &json!({ "written": file }));
        }
        Ok(())
    }
}

/// Writes `text` to a new file; with `overwrite`, also to an existing one.
pub(super) fn write_file(path: &Path, text: &str, overwrite: bool) -> Result<(), RunError> {
    write_atomically(path, text, overwrite).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => RunError::Exists { path: path.to_owned() },
        _ => RunError::Target {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })
}

/// Writes a file atomically. A path that is not a regular file, such as `/dev/stdout`, is written directly.
fn write_atomically(path: &Path, text: &str, overwrite: bool) -> io::Result<()> {
    // Writes the target of a link, and does not replace the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let found = fs::metadata(path).ok();
    if overwrite && found.as_ref().is_some_and(|found| !found.is_file()) {
        return fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    }
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if overwrite && found.is_some() {
        // A read-only file must not be replaced.
        let _file = fs::OpenOptions::new().write(true).open(path)?;
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Checked here, because the error of the temporary file would name that file.
    fs::metadata(folder)?;
    let permissions = found.map_or_else(|| Permissions::from_mode(0o666), |found| found.permissions());
    let mut file = tempfile::Builder::new()
        .prefix(".neva-")
        .permissions(permissions)
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    let kept = if overwrite {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    kept.map(drop).map_err(|error| error.error)
}

/// Creates the folder `path` and its parents.
pub(super) fn create_folder(path: &Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(|source| RunError::Target {
        action: "create",
        path: path.to_owned(),
        source,
    })
}
