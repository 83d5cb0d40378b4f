//! Recorded runs: `plan.json` in a run's folder, `run.json` in a checkpoint. They are read as recipe files with every
//! value given.
//!
//! These files hold enums as serde writes them, `{"optim.AdamW": {"lr": ..}}`. Each value is converted to the form of a
//! recipe file, `{_target_: optim.AdamW, lr: ..}`, and keeps its position in the file.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use neva_schemas::{PLAN_FILE, PLAN_FORMAT, Run};
use serde::Deserialize;

use super::{
    emit::to_json,
    error::{ConfigError, ProblemKind},
    interpolate::escape,
    json,
    node::{CUSTOM, Entry, FACTORY, Map, Node, TARGET, Value},
    origin::{Origin, Source},
    path::Path,
    ser::to_node,
};

/// File in a checkpoint that records its run.
const RUN_FILE: &str = "run.json";

/// Recipe arguments that every recipe forwards to its graph, with the field that receives them.
pub(crate) const FORWARDED_ARGUMENTS: &[(&str, [&str; 2])] = &[
    ("dir", ["log", "log_dir"]),
    ("name", ["log", "name"]),
    ("num_nodes", ["trainer", "num_nodes"]),
    ("num_gpus_per_node", ["trainer", "devices"]),
];

/// Returns the file that records the run of `folder`: a run's folder, a checkpoint, or a folder of runs, of which the
/// newest is used.
pub(crate) fn file_in(folder: &FilePath) -> Option<PathBuf> {
    let own = [PLAN_FILE, RUN_FILE].map(|name| folder.join(name));
    if let Some(file) = own.into_iter().find(|file| file.is_file()) {
        return Some(file);
    }
    let below = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let plans = below.filter_map(|entry| {
        let file = entry.path().join(PLAN_FILE);
        let written: SystemTime = fs::metadata(&file).and_then(|data| data.modified()).ok()?;
        Some((written, file))
    });
    plans.max().map(|(_, file)| file)
}

/// Converts the record `node`, the whole of `source`, to a recipe file; `None` if it is not a record.
///
/// # Errors
/// A record of another format, or one with values that this version does not know.
pub(super) fn recipe(source: &Arc<Source>, node: &Node) -> Result<Option<Node>, ConfigError> {
    /// The part of a launch plan that is read here.
    #[derive(Deserialize)]
    struct Plan {
        run: Run,
    }
    let parsed = if node.get("format").is_some() && node.get("run_dir").is_some() {
        check_format(node)?;
        serde_json::from_str::<Plan>(source.text()).map(|plan| plan.run)
    } else if is_run(node) {
        serde_json::from_str::<Run>(source.text())
    } else {
        return Ok(None);
    };
    let mut run = parsed.map_err(|error| unreadable(source, &error))?;
    let written = node.get("run").unwrap_or(node);
    // A plan always has a log folder, even if the argument `dir` was not given.
    let log_dir = run.finetune.log.log_dir.clone();
    run.dir = run.dir.or(log_dir);
    let mut recipe = to_node(&run, node.origin.clone())?;
    copy_origins(&mut recipe, written);
    remove_forwarded(&mut recipe);
    escape(&mut recipe);
    Ok(Some(recipe))
}

/// Returns whether `node` is a run as ranks read it: its model has serde's form of an enum.
fn is_run(node: &Node) -> bool {
    let model = node.get("finetune").and_then(|graph| graph.get("model")).and_then(Node::as_map);
    let is_tag = |map: &Map| map.len() == 1 && map.keys().all(|key| key.contains('.') || key == CUSTOM);
    node.get(FACTORY).is_some() && model.is_some_and(is_tag)
}

fn check_format(plan: &Node) -> Result<(), ConfigError> {
    let format = plan.get("format");
    match format.map(to_json).as_ref().and_then(serde_json::Value::as_u64) {
        Some(found) if found == u64::from(PLAN_FORMAT) => Ok(()),
        _ => {
            let origin = format.map(|format| format.origin.clone());
            let message = format!("this launch plan does not have format {PLAN_FORMAT}, which this version reads");
            Err(ConfigError::new(
                Path::default(),
                origin,
                ProblemKind::Invalid { message, help: None },
            ))
        }
    }
}

fn unreadable(source: &Arc<Source>, error: &serde_json::Error) -> ConfigError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let span = json::place(source.text(), error.line(), error.column());
    let problem = ProblemKind::Invalid {
        message: format!("this version cannot read this record of a run: {reason}"),
        help: Some("convert it to a recipe with the version that wrote it: `neva-run FILE --to-yaml mine.yaml`".to_owned()),
    };
    let source = Arc::clone(source);
    ConfigError::new(Path::default(), Some(Origin::File { source, span }), problem)
}

/// Copies the origins in `written`, which has serde's form of enums, to the values of `node`.
fn copy_origins(node: &mut Node, written: &Node) {
    node.origin = written.origin.clone();
    match (&mut node.value, &written.value) {
        (Value::Seq(items), Value::Seq(places)) => items.iter_mut().zip(places).for_each(|(item, at)| copy_origins(item, at)),
        (Value::Map(map), Value::Map(places)) => {
            let tag = map.get(TARGET).and_then(|entry| entry.node.as_text()).map(str::to_owned);
            let inner = tag.as_ref().filter(|_| places.len() == 1 && !places.contains_key(TARGET));
            let inner = inner.and_then(|tag| places.get(tag).or_else(|| places.get(CUSTOM)));
            let fields = inner.map_or(Some(places), |entry| entry.node.as_map());
            for (name, entry) in map {
                if let Some(at) = fields.and_then(|fields| fields.get(name)) {
                    entry.key = at.key.clone();
                    copy_origins(&mut entry.node, &at.node);
                } else if let Some(tag) = inner {
                    set_origin(entry, &tag.key);
                }
            }
        }
        _ => {}
    }
}

fn set_origin(entry: &mut Entry, origin: &Origin) {
    entry.key = origin.clone();
    entry.node.origin = origin.clone();
}

/// Removes the forwarded arguments from the graph, so that changing an argument changes the graph.
fn remove_forwarded(recipe: &mut Node) {
    for (argument, [section, field]) in FORWARDED_ARGUMENTS {
        let Some(argument) = recipe.get(argument).map(to_json) else {
            continue;
        };
        let fields = ["finetune", *section]
            .iter()
            .try_fold(&mut *recipe, |node, key| match &mut node.value {
                Value::Map(map) => map.get_mut(*key).map(|entry| &mut entry.node),
                _ => None,
            });
        if let Some(Value::Map(fields)) = fields.map(|node| &mut node.value)
            && fields.get(*field).is_some_and(|entry| to_json(&entry.node) == argument)
        {
            fields.shift_remove(*field);
        }
    }
}
