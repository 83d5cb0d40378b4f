//! OpenMP spin counts of ranks that are started by hand.

use neva_tests::{program, run};
use std::process::Command;

/// Returns the spin counts that libgomp prints at each start of a rank.
fn spin_counts(set: &[(&str, &str)]) -> Vec<String> {
    let mut command = Command::new(program("neva-rank"));
    command.args(["train", "--plan", "/nowhere/plan.json"]);
    for name in ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "RANK", "WORLD_SIZE"] {
        command.env_remove(name);
    }
    command.env("OMP_DISPLAY_ENV", "verbose").envs(set.iter().copied());
    let printed = run(command).with_code(2).stderr;
    let counts = printed.lines().filter_map(|line| line.split_once("GOMP_SPINCOUNT = '"));
    counts.map(|(_, count)| count.trim_end_matches('\'').to_owned()).collect()
}

#[test]
fn a_manually_started_rank_does_not_spin_for_long() {
    let counts = spin_counts(&[]);
    assert_eq!(counts.len(), 2, "it re-executes itself once: {counts:?}");
    assert_eq!(counts[1], "3000", "{counts:?}");
    assert_eq!(spin_counts(&[("GOMP_SPINCOUNT", "7")]), ["7"]);
    assert_eq!(spin_counts(&[("OMP_WAIT_POLICY", "active")]).len(), 1, "the user's setting is kept");
}
