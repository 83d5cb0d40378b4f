//! Time to render an array of 10,000 tasks. The bound is 1 s of processor time, of all threads: on idle cores it takes less.
//!
//!     cargo bench --workspace --bench slurm_array

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

use std::{fs, path::Path, time::Instant};

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
    let (start, before) = (Instant::now(), processor_s());
    let submission = render_array(&config, "sweep", root, &works, Some(100), Path::new("neva-rank")).unwrap();
    let (elapsed, seconds) = (start.elapsed().as_secs_f64(), processor_s() - before);
    let bytes: usize = submission.files.values().map(String::len).sum();
    println!("| what | measured | bound |\n|---|---|---|");
    println!(
        "| an array of {TASKS} tasks, {} MB of plans: processor time | {seconds:.2} s | {MAX_S} s |",
        bytes / 1_000_000
    );
    println!("| its time on this machine | {elapsed:.2} s | |");
    assert!(seconds <= MAX_S, "an array of {TASKS} tasks takes {seconds:.2} s to render");
}

/// Returns the processor time of this process.
fn processor_s() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // User and system time are the 14th and 15th field, in hundredths of a second; the name of the program may hold blanks.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}
