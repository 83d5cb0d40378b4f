//! From a recipe to a run, through the public door of the library and of the program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod experiment;
mod experiment_again;
mod experiment_cancel;
mod experiment_executor;
mod experiment_file;
mod experiment_home;
mod experiment_program;
mod experiment_store;
mod experiment_tasks;
mod factories;
mod faults;
mod graph;
mod includes;
mod launch;
mod nearest;
mod overrides;
mod own_data;
mod plan;
mod plot;
mod process;
mod recipes;
mod references;
mod refusals;
mod resolve;
mod retry;
mod schemas;
mod settings;
mod sweep;
mod terminal;

use std::{path::PathBuf, time::Duration};

/// Every wait of these tests.
const DEADLINE: Duration = Duration::from_secs(120);

/// The script that stands in for the rank program.
fn fake_rank() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/neva-rank"))
}

/// A file beside the crate's folder.
fn recipe_file(name: &str) -> String {
    format!("{}/../recipes/{name}", env!("CARGO_MANIFEST_DIR"))
}
