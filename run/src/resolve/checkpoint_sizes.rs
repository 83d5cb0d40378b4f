//! Sizes of the model that `from_pretrained` names.
//!
//! The checkpoint's values override those of the recipe. Values in the file and in `--set` override the checkpoint's.
//! Reading the checkpoint is an effect, so [`ResolveOptions::pretrained`](super::ResolveOptions) does it.

use std::sync::Arc;

use neva_schemas::{Finetune, Model, Problem, RestoreConfig};

use super::{GRAPH, check};
use crate::{
    config::{self, Entry, Map, Node, Origin, Problems, Source, Value, to_node},
    pretrained::{FROM_PRETRAINED, Pretrained},
};

const MODEL: &str = "model";
const RESUME: &str = "resume";
const RESTORE: &str = "restore_config";

/// Merges the sizes of the checkpoint that `finetune` names into `tree`, and sets it as the source of the weights. Returns
/// whether the tree changed.
///
/// # Errors
/// The checkpoint cannot be read, or is another kind of model.
pub(super) fn fill(tree: &mut Node, finetune: &Finetune, read: fn(&str) -> Result<Pretrained, Problem>) -> Result<bool, Problems> {
    let Some(address) = finetune.model.from_pretrained() else {
        return Ok(false);
    };
    if address.is_empty() {
        let problem = Problem::error(FROM_PRETRAINED, "`from_pretrained` is empty");
        check(tree, vec![problem.help("name a model, or set it to null for fresh weights")])?;
        return Ok(false);
    }
    let mut changed = false;
    // The record of a run states all sizes, and is resolved without the checkpoint.
    if !is_stated(tree, &finetune.model)? {
        let found = read(address).and_then(|found| {
            let model = under_target(&found, &finetune.model)?;
            Ok((found, model))
        });
        let (found, found_model) = match found {
            Ok(found) => found,
            Err(problem) => {
                check(tree, vec![problem])?;
                return Ok(false);
            }
        };
        let source = Source::new(found.file.display().to_string(), found.text);
        let mut sizes = sizes(&found_model, &Origin::text(&source, 0, 0))?;
        locate(&mut sizes, &source, 0);
        if let Some(model) = graph(tree).and_then(|graph| child(graph, MODEL)) {
            remove_stated(&mut sizes, model, &model.origin);
            config::merge(model, sizes);
            changed = true;
        }
    }
    Ok(set_weights(tree, finetune, address)? || changed)
}

/// Returns the model of a checkpoint under the target of the run's model.
fn under_target(found: &Pretrained, wanted: &Model) -> Result<Model, Problem> {
    found.model.under_target_of(wanted).ok_or_else(|| {
        let message = format!(
            "the run trains {}, but {} describes {}",
            wanted.target(),
            found.file.display(),
            found.model.target()
        );
        Problem::error(FROM_PRETRAINED, message).help(format!("use `_target_: {}`", found.model.target()))
    })
}

/// Sets the checkpoint as the source of the weights, unless the file or `--set` name another one.
fn set_weights(tree: &mut Node, finetune: &Finetune, address: &str) -> Result<bool, Problems> {
    let named = finetune.resume.restore_config.as_ref();
    if named.is_some_and(|restore| restore.path == address) {
        return Ok(false);
    }
    let Some(graph) = graph(tree) else { return Ok(false) };
    let origin = graph
        .get(MODEL)
        .and_then(|model| model.get("from_pretrained"))
        .map(|node| node.origin.clone());
    let path = graph.get(RESUME).and_then(|resume| resume.get(RESTORE)?.get("path"));
    if named.is_some() && path.is_some_and(|path| path.origin.span().is_some()) {
        // Both are the user's: the validation of the run reports them.
        return Ok(false);
    }
    let origin = origin.unwrap_or(Origin::Default);
    let restore = to_node(&RestoreConfig::weights(address), origin.clone())?;
    let Value::Map(graph) = &mut graph.value else { return Ok(false) };
    let resume = graph.entry(RESUME.to_owned()).or_insert_with(|| Entry {
        key: origin.clone(),
        node: Node::new(origin.clone(), Value::Map(Map::new())),
    });
    let over = Map::from_iter([(
        RESTORE.to_owned(),
        Entry {
            key: origin.clone(),
            node: restore,
        },
    )]);
    config::merge(&mut resume.node, Node::new(origin, Value::Map(over)));
    Ok(true)
}

/// Returns the values of a model that a checkpoint determines.
fn sizes(model: &Model, origin: &Origin) -> Result<Node, Problems> {
    let mut node = to_node(model, origin.clone())?;
    if let Value::Map(map) = &mut node.value {
        // The run determines the frozen parts and the sources of weights.
        map.retain(|name, _| !name.starts_with("freeze_") && !name.ends_with("from_pretrained"));
    }
    Ok(node)
}

/// Sets the origin of each value to its name in the checkpoint's file, if the file has it.
fn locate(node: &mut Node, source: &Arc<Source>, from: usize) {
    let Value::Map(map) = &mut node.value else { return };
    for (name, entry) in map {
        let quoted = format!("\"{name}\"");
        let at = source.text().get(from..).and_then(|rest| rest.find(&quoted)).map(|at| at + from);
        if let Some(at) = at {
            entry.node.origin = Origin::text(source, at, quoted.len());
            entry.key = entry.node.origin.clone();
        }
        locate(&mut entry.node, source, at.unwrap_or(from));
    }
}

/// Returns whether the file or `--set` state every size of the model.
fn is_stated(tree: &Node, model: &Model) -> Result<bool, Problems> {
    fn all(stated: &Node, wanted: &Node, whole: &Origin) -> bool {
        match (&stated.value, &wanted.value) {
            (Value::Map(stated), Value::Map(wanted)) => wanted
                .iter()
                .all(|(name, entry)| stated.get(name).is_some_and(|own| all(&own.node, &entry.node, whole))),
            _ => is_own(stated, whole),
        }
    }
    let wanted = sizes(model, &Origin::Default)?;
    let stated = tree.get(GRAPH).and_then(|graph| graph.get(MODEL));
    Ok(stated.is_some_and(|stated| all(stated, &wanted, &stated.origin)))
}

/// Removes from `sizes` the values that the file or `--set` state in `model`.
fn remove_stated(sizes: &mut Node, model: &Node, whole: &Origin) {
    let (Value::Map(sizes), Value::Map(model)) = (&mut sizes.value, &model.value) else {
        return;
    };
    sizes.retain(|name, entry| {
        let Some(own) = model.get(name) else { return true };
        match (&own.node.value, &entry.node.value) {
            (Value::Map(_), Value::Map(_)) => {
                remove_stated(&mut entry.node, &own.node, whole);
                true
            }
            _ => name == config::TARGET || !is_own(&own.node, whole),
        }
    });
}

/// Returns whether the file or `--set` state a value. A factory created values with the origin of the `whole` model, as a
/// recipe does.
fn is_own(node: &Node, whole: &Origin) -> bool {
    node.origin.span().is_some() && node.origin != *whole
}

fn graph(tree: &mut Node) -> Option<&mut Node> {
    child(tree, GRAPH)
}

fn child<'a>(node: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    match &mut node.value {
        Value::Map(map) => map.get_mut(name).map(|entry| &mut entry.node),
        _ => None,
    }
}
