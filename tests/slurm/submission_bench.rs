//! Time in which an experiment of 20 tasks is submitted to a real Slurm, beside 20 calls of sbatch.
//!
//!     make bench-slurm
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::format_push_string,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

#[expect(dead_code, unused_imports, reason = "the tests use all of it")]
mod cluster;

use std::{fs, time::Instant};

use cluster::Cluster;

const TASKS: usize = 20;
/// Of the time of as many calls of sbatch.
const MAX_RATIO: f64 = 1.5;

fn main() {
    let cluster = Cluster::start("speed", &["--set", "SlurmdTimeout=60"]);
    let mut text = "name: twenty\nmax_parallel: 64\ntasks:\n".to_owned();
    for task in 0..TASKS {
        text += &format!("  task{task}:\n    task: {{_target_: run.Script, inline: \"true\"}}\n");
    }
    let file = cluster.dir.path().join("twenty.yaml");
    fs::write(&file, text).unwrap();
    let executor = cluster.executor("held", "additional_parameters: {begin: now+1hour}");
    let best = |measure: &dyn Fn() -> f64| (0..3).map(|_| measure()).fold(f64::INFINITY, f64::min);

    let script = cluster.dir.path().join("bare.sh");
    fs::write(&script, "#!/bin/bash\ntrue\n").unwrap();
    let script = script.display().to_string();
    let bare = best(&|| {
        let started = Instant::now();
        for _ in 0..TASKS {
            let _ = cluster.output(&["sbatch", "--begin=now+1hour", "--parsable", &script]);
        }
        started.elapsed().as_secs_f64()
    });
    let _ = cluster.output(&["scancel", "--user", "root"]);
    // The newest experiment's events.
    let experiments = cluster.dir.path().join("home/experiments/twenty");
    let folders = || fs::read_dir(&experiments).map_or(0, |folders| folders.count());
    let events = || {
        let newest = fs::read_dir(&experiments)
            .unwrap()
            .map(|folder| folder.unwrap().path())
            .max()
            .unwrap();
        fs::read_to_string(newest.join("events.jsonl")).unwrap_or_default()
    };
    let ours = best(&|| {
        let before = folders();
        let launcher = neva_tests::start(cluster.neva_run(&[&file.display().to_string(), "--executor", &executor]));
        // Without the start of the program and the reading of the file.
        neva_tests::wait_for("an experiment", || (folders() > before).then_some(()));
        let started = Instant::now();
        neva_tests::wait_for("all jobs", || (events().matches("\"submitted\"").count() == TASKS).then_some(()));
        let elapsed = started.elapsed().as_secs_f64();
        let jobs = cluster.output(&["squeue", "-h", "-t", "pending", "-o", "%F"]);
        let all = cluster.output(&["squeue", "-h", "-r", "-t", "pending", "-o", "%i"]);
        assert_eq!((jobs.lines().count(), all.lines().count()), (1, TASKS), "one array: {jobs}");
        let _ = cluster.output(&["scancel", "--user", "root"]);
        let _ = neva_tests::finish(launcher);
        elapsed
    });
    println!("| {TASKS} tasks | s | ratio | bound |\n|---|---|---|---|");
    println!("| sbatch, {TASKS} times | {bare:.2} | 1 | |");
    println!("| an experiment | {ours:.2} | {:.2} | {MAX_RATIO} |", ours / bare);
}
