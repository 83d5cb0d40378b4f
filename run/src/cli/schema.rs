//! `neva-run schema`: JSON schemas, for editors.

use std::path::PathBuf;

use clap::{Args, ValueHint, builder::PossibleValuesParser};
use neva_schemas::SCHEMAS;
use serde_json::json;

use super::{
    OutputArgs,
    export::{create_folder, write_file},
    report::Report,
};
use crate::error::RunError;

const EXAMPLES: &str = "\
Examples:
  neva-run schema                        list the schemas
  neva-run schema recipe                 print a schema
  neva-run schema --write .schemas       write all schemas, for editors";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SchemaArgs {
    /// Schema to print or write [default: all]
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(SCHEMAS.iter().map(|entry| entry.name)))]
    name: Option<String>,
    /// Write to this folder instead of printing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    write: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn schema(args: &SchemaArgs, report: &mut Report) -> Result<(), RunError> {
    let entries = || {
        SCHEMAS
            .iter()
            .filter(|entry| args.name.as_ref().is_none_or(|name| name == entry.name))
    };
    if let Some(folder) = &args.write {
        create_folder(folder)?;
        let mut written = Vec::new();
        for entry in entries() {
            let path = folder.join(entry.file());
            write_file(&path, &entry.text(), true)?;
            written.push(path);
        }
        let lines: Vec<_> = written.iter().map(|path| format!("wrote {}", path.display())).collect();
        report.result(lines.join("\n"), &json!({ "written": written }));
    } else if args.name.is_some() {
        entries().for_each(|entry| report.result(entry.text().trim_end(), &(entry.schema)()));
    } else {
        let lines: Vec<_> = SCHEMAS
            .iter()
            .map(|entry| format!("{:<10}  {}", entry.name, entry.summary))
            .collect();
        let values: Vec<_> = SCHEMAS
            .iter()
            .map(|entry| json!({ "name": entry.name, "summary": entry.summary }))
            .collect();
        report.result(lines.join("\n"), &values);
    }
    Ok(())
}
