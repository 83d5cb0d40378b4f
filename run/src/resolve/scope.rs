//! Follows references and applies overrides, in order.

use std::collections::BTreeSet;

use neva_schemas::Finetune;

use super::{GRAPH, ResolveOptions, graph_mut, in_graph, problem};
use crate::config::{self, Environment, Node, Override, Path, ProblemKind, Problems, Segment};

/// Factories and variables that the values of a configuration may use.
pub(super) struct Scope<'a> {
    pub(super) options: &'a ResolveOptions,
    /// Variables of the environment that the configuration lists.
    pub(super) allowed: BTreeSet<String>,
}

impl Scope<'_> {
    /// Applies `overrides` to `root` in order, and calls `prepare` before each.
    pub(super) fn apply(&self, overrides: &[Override], root: &mut Node, prepare: impl Fn(&mut Node)) -> Result<(), Problems> {
        let mut errors = Vec::new();
        for over in overrides {
            prepare(root);
            let followed = self.follow_path_of(over, root);
            let done = followed.and_then(|()| over.apply(root).map_err(Problems::from));
            if let Err(problems) = done {
                errors.extend_from_slice(problems.errors());
            }
        }
        Problems::check(errors)
    }

    /// Follows the references on the path of `over`, and the one that it computes with.
    fn follow_path_of(&self, over: &Override, root: &mut Node) -> Result<(), Problems> {
        let path = over.path().0;
        for len in 1..path.len() + usize::from(over.computes()) {
            let path = Path(path[..len].to_vec());
            let Some(node) = path.0.iter().try_fold(&*root, |node, segment| node.step(segment)) else {
                return Ok(());
            };
            let is_reference = node.as_text().is_some() && config::has_references(node);
            if is_reference {
                let followed = self.follow(root, node, &path)?;
                let place = path.0.iter().try_fold(&mut *root, |node, segment| node.step_mut(segment));
                if let Some(place) = place {
                    *place = followed;
                }
            }
        }
        Ok(())
    }

    /// Returns `part`, the value at `path` of `root`, without references.
    pub(super) fn follow(&self, root: &Node, part: &Node, path: &Path) -> Result<Node, Problems> {
        let environment = Environment {
            allowed: self.allowed.clone(),
            read: &self.options.variable,
        };
        config::interpolate(root, part, path, &environment)
    }

    /// Returns the typed graph; in the tree, references and calls are replaced by their values.
    pub(super) fn graph(&self, tree: &mut Node) -> Result<Finetune, Problems> {
        let path = Path(vec![Segment::Key(GRAPH.to_owned())]);
        let followed = match tree.get(GRAPH) {
            Some(graph) if config::has_references(graph) => Some(self.follow(tree, graph, &path)?),
            _ => None,
        };
        let Some(graph) = graph_mut(tree) else {
            return Err(problem(path, None, ProblemKind::MissingField).into());
        };
        if let Some(followed) = followed {
            *graph = followed;
        }
        Problems::check(config::leftover_deletions(graph)).map_err(|problems| problems.map(in_graph))?;
        config::build(graph, &self.options.factories).map_err(|problems| problems.map(in_graph))
    }
}
