//! Writes a resolved run as a file: `--to-yaml`, `--to-json`, `--to-toml`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
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

/// Makes the text of a file.
type Writer = fn(&Node) -> Result<String, ConfigError>;

/// Files to write the resolved run to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Export")]
pub(super) struct ExportArgs {
    /// Write the resolved run as YAML in place of running it; `-` is standard output. The file is a recipe file
    /// again, with every value in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_yaml: Option<PathBuf>,
    /// As `--to-yaml`, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_json: Option<PathBuf>,
    /// As `--to-yaml`, as TOML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "export")]
    to_toml: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(long, short, requires = "export")]
    yes: bool,
}

impl ExportArgs {
    /// Whether something is to be written.
    pub(super) fn wanted(&self) -> bool {
        self.to_yaml.is_some() || self.to_json.is_some() || self.to_toml.is_some()
    }

    /// Writes what was asked for.
    pub(super) fn write(&self, resolved: &Resolved, report: &mut Report) -> Result<(), RunError> {
        let run = &resolved.run;
        let mut node = to_node(run, Origin::recipe(&run.factory))?;
        // Text that looks like a reference is text when the file is read.
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

/// Writes `text` into a new file, or, with `overwrite`, into any.
pub(super) fn write_file(path: &Path, text: &str, overwrite: bool) -> Result<(), RunError> {
    let created = if overwrite { File::create(path) } else { File::create_new(path) };
    let written = created.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => RunError::Exists { path: path.to_owned() },
        _ => RunError::File {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })
}

/// Creates the folder `path` with those above it.
pub(super) fn create_folder(path: &Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(|source| RunError::File {
        action: "create",
        path: path.to_owned(),
        source,
    })
}
