//! Properties: written values read back the same, and no input makes the tree panic.
//!
//! `PROPTEST_CASES=1000000` in the environment runs more cases.

mod noise;
mod round_trip;
mod sample;

use neva_run::config::{self, Environment, Node, Path};

/// Returns the tree with its references followed, in an environment without variables.
fn followed(node: &Node) -> Result<Node, config::Problems> {
    let environment = Environment {
        allowed: ["a".to_owned()].into(),
        read: &|_| None,
    };
    config::interpolate(node, node, &Path::default(), &environment)
}
