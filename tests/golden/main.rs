//! Trains the traces of Hugging Face's code as a user would: from a recipe file, on one rank in this process and on
//! several in separate processes. `engine/tests/golden` compares the same traces step by step, without a recipe.
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]
#![expect(clippy::print_stdout, reason = "which traces were compared, and which refused, is the test's log")]

mod batches;
mod outcome;
mod trace;

use neva_run::{RunOptions, launch, load, resolve};
use neva_schemas::env;
use neva_tests::{neva_run, run, run_folder};
use trace::{Ranks, Trace};

#[test]
fn one_rank_in_this_process_reproduces_every_trace() {
    each_trace(Ranks { data: 1, tensor: 1 }, |recipe| {
        let resolved = resolve(load(recipe).unwrap(), &[] as &[&str]).unwrap();
        let engine = neva_engine::engine().registry(batches::registry());
        let report = launch(&resolved.run, RunOptions::direct(engine)).unwrap();
        assert_eq!(report.ended_early, None);
    });
}

#[test]
fn two_data_parallel_processes_reproduce_every_trace() {
    each_trace(Ranks { data: 2, tensor: 1 }, in_processes);
}

#[test]
fn two_tensor_parallel_processes_reproduce_every_trace() {
    each_trace(Ranks { data: 1, tensor: 2 }, in_processes);
}

/// More ranks than key heads: each head is replicated.
#[test]
fn four_tensor_parallel_processes_reproduce_every_trace() {
    each_trace(Ranks { data: 1, tensor: 4 }, in_processes);
}

/// Trains through the launcher, with the rank program that has the batches' data module.
fn in_processes(recipe: &str) {
    let mut command = neva_run(&[recipe]);
    command.env(env::NEVA_RANK, std::env!("CARGO_BIN_EXE_golden-rank"));
    let _ = run(command).with_code(0);
}

/// Writes the recipe of each trace, trains it with `train`, and compares.
fn each_trace(ranks: Ranks, train: impl Fn(&str)) {
    let mut trained = 0;
    for trace in Trace::all() {
        if trace.is_refused() {
            println!("{}: refused", trace.folder.display());
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("recipe.yaml");
        std::fs::write(&recipe, trace.recipe(dir.path(), ranks)).unwrap();
        train(recipe.to_str().unwrap());
        outcome::check(&trace, &run_folder(dir.path(), &trace.name()));
        println!("{}: ok", trace.folder.display());
        trained += 1;
    }
    assert!(trained >= 3, "only {trained} traces were trained");
}
