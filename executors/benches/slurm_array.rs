//! Time to render an array of 10,000 tasks. The bound is 1 s.
//!
//!     cargo bench --workspace --bench slurm_array

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

use std::{path::Path, time::Instant};

use neva_executors::{Work, slurm::render::render_array};
use neva_recipes::llava15_7b;
use neva_schemas::{LaunchPlan, PLAN_FORMAT, Run, SlurmExecutorConfig};

const TASKS: u32 = 10_000;
const MAX_S: f64 = 1.0;

fn main() {
    let args = llava15_7b::default_args();
    let run = Run::new("llava15_7b", args.clone(), llava15_7b::finetune_recipe(args));
    let root = Path::new("/scratch/sweep");
    let plans: Vec<_> = (0..TASKS)
        .map(|number| LaunchPlan {
            format: PLAN_FORMAT,
            version: "0.0.0".into(),
            name: format!("lr={number}"),
            run_dir: root.join(format!("tasks/lr={number}")),
            num_nodes: 1,
            ranks_per_node: run.finetune.trainer.devices,
            env: [("NEVA_TASK".to_owned(), format!("lr={number}"))].into(),
            run: run.clone(),
        })
        .collect();
    let works: Vec<_> = plans.iter().map(Work::Ranks).collect();
    let config = SlurmExecutorConfig::default();
    let start = Instant::now();
    let submission = render_array(&config, "sweep", root, &works, Some(100), Path::new("neva-rank")).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let bytes: usize = submission.files.values().map(String::len).sum();
    println!("| what | measured | bound |\n|---|---|---|");
    println!(
        "| an array of {TASKS} tasks, {} MB of plans | {seconds:.2} s | {MAX_S} s |",
        bytes / 1_000_000
    );
    assert!(seconds <= MAX_S, "an array of {TASKS} tasks takes {seconds:.2} s to render");
}
