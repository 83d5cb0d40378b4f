//! From a recipe to a run, through the public API of the library and the command line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod checkpoint_sizes;
mod command_line;
mod data;
mod doctor;
mod experiment;
mod experiment_cancel;
mod experiment_executor;
mod experiment_file;
mod experiment_home;
mod experiment_program;
mod experiment_rerun;
mod experiment_store;
mod experiment_tasks;
mod factories;
mod faults;
mod graph;
mod hub;
mod hub_server;
mod import;
mod import_bad_input;
mod import_gguf;
mod import_original;
mod includes;
mod launch;
mod logs;
mod nearest;
mod nemo_spellings;
mod openmp;
mod overrides;
mod own_data;
mod partials;
mod plan;
mod plot;
mod precision;
mod preflight;
mod process;
mod recipes;
mod recorded;
mod references;
mod refusals;
mod resolve;
mod retry;
mod schemas;
mod settings;
mod signals;
mod sites;
mod slurm_settings;
mod sweep;
mod tensor_files;
mod terminal;
mod unwritable;

use std::{path::PathBuf, time::Duration};

/// Deadline of every wait in these tests.
const DEADLINE: Duration = Duration::from_secs(120);

/// Returns the path of the script that replaces the rank program.
fn fake_rank() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/neva-rank"))
}

/// Returns the path of a file in `recipes`.
fn recipe_file(name: &str) -> String {
    format!("{}/../recipes/{name}", env!("CARGO_MANIFEST_DIR"))
}
