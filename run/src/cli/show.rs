//! `neva-run show RECIPE`: prints the resolved run.

use clap::Args;
use serde_json::json;

use super::{Globals, OutputArgs, RecipeInput, report::Report};
use crate::{
    config::{self, Node, Path, Revision, Value, to_json, to_yaml_string},
    error::RunError,
};

const EXAMPLES: &str = "\
Examples:
  neva-run show llava15_7b                               print the defaults of a recipe
  neva-run show mine.yaml --set peft_scheme=none         print the result of an override
  neva-run show mine.yaml --origins | grep optim.lr      print where a value comes from
  neva-run show mine.yaml --output json | jq .finetune";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Print each value with its location and its earlier values
    #[arg(long)]
    origins: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn show(args: &ShowArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    let resolved = args.input.resolve(globals.workspace()?.as_ref())?;
    report.warnings(&resolved.warnings);
    let mut node = resolved.traced()?;
    if args.origins {
        let revisions = revisions(&node);
        let values: Vec<_> = revisions
            .iter()
            .map(|(path, revisions)| json!({ "path": path, "states": as_json(revisions) }))
            .collect();
        report.result(lines(&revisions).trim_end(), &values);
        return Ok(());
    }
    let json = to_json(&node);
    // Escapes text that looks like a reference, so that reading the output as a recipe gives the same text.
    config::escape(&mut node);
    report.result(to_yaml_string(&node).trim_end(), &json);
    Ok(())
}

/// Returns the revisions of each leaf value, oldest first.
fn revisions(root: &Node) -> Vec<(String, Vec<Revision>)> {
    let is_list_of_scalars = |items: &[Node]| !items.iter().any(|item| matches!(item.value, Value::Seq(_) | Value::Map(_)));
    let mut lists: Vec<Path> = Vec::new();
    let mut found = Vec::new();
    config::walk(root, |path, node| {
        if lists.last().is_some_and(|list| path.0.starts_with(&list.0)) {
            return;
        }
        match &node.value {
            Value::Map(map) if !map.is_empty() => return,
            Value::Seq(items) if !is_list_of_scalars(items) => return,
            Value::Seq(_) => lists.push(path.clone()),
            _ => {}
        }
        found.push((path.to_string(), node.revisions()));
    });
    found
}

/// Formats values as `path: value  # location; was value (location), value (location)`, newest first.
fn lines(values: &[(String, Vec<Revision>)]) -> String {
    let mut text = String::new();
    for (path, revisions) in values {
        let mut newest = revisions.iter().rev();
        let Some(now) = newest.next() else { continue };
        let value = now.value.as_deref().unwrap_or("(deleted)");
        text.extend([path, ": ", value, "  # ", &now.origin.to_string()]);
        for (at, revision) in newest.enumerate() {
            let value = revision.value.as_deref().unwrap_or("(deleted)");
            text.extend([
                if at == 0 { "; was " } else { ", " },
                value,
                " (",
                &revision.origin.to_string(),
                ")",
            ]);
        }
        text.push('\n');
    }
    text
}

fn as_json(revisions: &[Revision]) -> Vec<serde_json::Value> {
    let revision = |revision: &Revision| json!({ "value": revision.value, "origin": revision.origin.to_string() });
    revisions.iter().map(revision).collect()
}
