//! `neva-run schema`: JSON schemas, for editors.

use std::{fs, path::PathBuf};

use clap::Args;
use neva_schemas::SCHEMAS;

use super::report::Report;
use crate::error::RunError;

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Write the schema files into this folder instead
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

pub(super) fn schema(args: &SchemaArgs, report: &mut Report) -> Result<(), RunError> {
    for entry in SCHEMAS {
        let text = entry.text();
        let Some(folder) = &args.write else {
            report.result(text.trim_end(), &text);
            continue;
        };
        let path = folder.join(entry.file);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, text));
        written.map_err(|source| RunError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
        report.note(format_args!("wrote {}", path.display()));
    }
    Ok(())
}
