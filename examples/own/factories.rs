//! A custom factory, which completes a partial config of a recipe.

use neva_run::config::{Bound, Partial, Problems};
use neva_schemas::{LrScheduler, Optim};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// An optimizer whose learning rate decays over the last part of the run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecaysAtTheEnd {
    /// The optimizer, without its schedule.
    optim: Partial<Bound<Optim>>,
    /// The schedule, without the length of its decay.
    lr_scheduler: Partial<Bound<LrScheduler>>,
    /// Steps of the run.
    max_steps: u64,
    /// Fraction of the steps that decay.
    part: f64,
}

pub(crate) fn decays_at_the_end(args: DecaysAtTheEnd) -> Result<Optim, Problems> {
    let decay_steps = (args.max_steps as f64 * args.part) as u64;
    let schedule = args.lr_scheduler.complete(&json!({ "decay_steps": decay_steps }))?;
    args.optim.complete(&BTreeMap::from([("lr_scheduler", schedule)]))
}
