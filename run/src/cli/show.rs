//! `neva-run show RECIPE`: the resolved run.

use clap::Args;
use serde_json::json;

use super::{Globals, OutputArgs, RecipeInput, report::Report};
use crate::{
    config::{self, Node, Path, Step, Value, to_json, to_yaml_string},
    error::RunError,
};

const EXAMPLES: &str = "\
Examples:
  neva-run show llava15_7b                               the defaults of a recipe
  neva-run show mine.yaml --set peft_scheme=none         what an override comes to
  neva-run show mine.yaml --origins | grep optim.lr      who said so, and what it was before
  neva-run show mine.yaml --output json | jq .finetune";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    input: RecipeInput,
    /// Print each value with the place where it was written, and what it was before
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
        let states = states(&node);
        let values: Vec<_> = states
            .iter()
            .map(|(path, steps)| json!({ "path": path, "states": as_json(steps) }))
            .collect();
        report.result(lines(&states).trim_end(), &values);
        return Ok(());
    }
    let json = to_json(&node);
    // What is printed is a recipe file: text that looks like a reference is text when it is read.
    config::escape(&mut node);
    report.result(to_yaml_string(&node).trim_end(), &json);
    Ok(())
}

/// The states of each value that is not made of others, oldest first.
fn states(root: &Node) -> Vec<(String, Vec<Step>)> {
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
        found.push((path.to_string(), node.states()));
    });
    found
}

/// `path: value  # place; was value (place), value (place)`, the newest first.
fn lines(states: &[(String, Vec<Step>)]) -> String {
    let mut text = String::new();
    for (path, steps) in states {
        let mut newest = steps.iter().rev();
        let Some(now) = newest.next() else { continue };
        let value = now.value.as_deref().unwrap_or("(deleted)");
        text.extend([path, ": ", value, "  # ", &now.origin.to_string()]);
        for (at, step) in newest.enumerate() {
            let value = step.value.as_deref().unwrap_or("(deleted)");
            text.extend([if at == 0 { "; was " } else { ", " }, value, " (", &step.origin.to_string(), ")"]);
        }
        text.push('\n');
    }
    text
}

fn as_json(steps: &[Step]) -> Vec<serde_json::Value> {
    let step = |step: &Step| json!({ "value": step.value, "origin": step.origin.to_string() });
    steps.iter().map(step).collect()
}
