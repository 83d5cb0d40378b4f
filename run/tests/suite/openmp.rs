//! Environment of ranks for the cores and GPUs that they share with others.

use std::{collections::BTreeMap, fs, path::Path};

use neva_schemas::exit_class;
use serde_json::Value;

use crate::process::{Program, run_folder};

/// Variables with which a user, or cargo for these tests, sets how OpenMP's threads wait.
const WAITING: [&str; 4] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"];

/// Returns the environment of the rank that ran in `folder`.
fn environment(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder.join("environment")).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn ranks_spin_briefly_unless_the_user_sets_a_wait_policy() {
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(Variables, Option<&str>); 3] = [
        (&[], Some("3000")),
        (&[("GOMP_SPINCOUNT", "7")], Some("7")),
        (&[("OMP_WAIT_POLICY", "ACTIVE")], None),
    ];
    for (set, spin_count) in cases {
        for arguments in [&["neva_tiny"][..], &["neva_tiny", "--direct"]] {
            let program = Program::new("environment", arguments).without(&WAITING).env(set);
            let (code, _, stderr, dir) = program.run();
            assert_eq!(code, 0, "{stderr}");
            let environment = environment(&run_folder(dir.path()));
            assert_eq!(
                environment.get("GOMP_SPINCOUNT").map(String::as_str),
                spin_count,
                "{set:?} {arguments:?}"
            );
            assert_eq!(
                environment.get("OMP_NUM_THREADS"),
                None,
                "a rank that runs alone gets all cores: {arguments:?}"
            );
        }
    }
    let executor = "executor.env_vars.GOMP_SPINCOUNT=7";
    let (_, _, _, dir) = Program::new("environment", &["neva_tiny", "--set", executor])
        .without(&WAITING)
        .run();
    assert_eq!(environment(&run_folder(dir.path()))["GOMP_SPINCOUNT"], "7");
}

/// Returns the environments of the points of a sweep over four learning rates, and the experiment's record.
fn sweep(arguments: &[&str], set: &[(&str, &str)]) -> (Vec<BTreeMap<String, String>>, Value) {
    let arguments = [&["neva_tiny", "--sweep", "finetune.optim.lr=1,2,3,4"][..], arguments].concat();
    let program = Program::new("environment", &arguments).without(&WAITING).env(set);
    let store = program.dir.path().join("store");
    let program = program.env(&[("NEVA_RUN_HOME", &store.display().to_string())]);
    let (code, _, stderr, _dir) = program.run();
    assert_eq!(code, 0, "{stderr}");
    let experiment = fs::read_dir(store.join("experiments/default"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let points = [1, 2, 3, 4].map(|lr| environment(&experiment.join(format!("tasks/lr={lr}"))));
    let record = serde_json::from_slice(&fs::read(experiment.join("experiment.json")).unwrap()).unwrap();
    (points.into(), record)
}

#[test]
fn points_of_a_sweep_do_not_share_gpus() {
    let gpus = ("CUDA_VISIBLE_DEVICES", "5,7");
    for arguments in [&[][..], &["--max-parallel", "4"]] {
        let (points, _) = sweep(arguments, &[gpus]);
        for point in points {
            assert!(
                ["5", "7"].contains(&point["CUDA_VISIBLE_DEVICES"].as_str()),
                "{arguments:?}: {point:?}"
            );
        }
    }
    // A user who names GPUs, or computes on CPUs, keeps the variable.
    for arguments in [
        ["--set", "executor.env_vars.CUDA_VISIBLE_DEVICES=\"5,7\""],
        ["--set", "finetune.trainer.accelerator=cpu"],
    ] {
        let (points, _) = sweep(&arguments, &[gpus]);
        assert!(
            points.iter().all(|point| point["CUDA_VISIBLE_DEVICES"] == "5,7"),
            "{arguments:?}: {points:?}"
        );
    }
}

#[test]
fn concurrent_points_share_the_threads() {
    let (points, record) = sweep(&["--max-parallel", "1000"], &[]);
    assert_eq!(record["experiment"]["max_parallel"], 1000);
    let cores = std::thread::available_parallelism().unwrap().get();
    // The first task shares with three others; the last may run alone.
    assert_eq!(points[0]["OMP_NUM_THREADS"], (cores / 4).max(1).to_string());
    let (points, record) = sweep(&["--max-parallel", "1"], &[]);
    assert_eq!(record["experiment"]["max_parallel"], 1);
    assert!(points.iter().all(|point| !point.contains_key("OMP_NUM_THREADS")), "{points:?}");
    let (points, record) = sweep(&[], &[("OMP_NUM_THREADS", "3")]);
    assert_eq!(record["experiment"]["max_parallel"], Value::Null);
    assert!(points.iter().all(|point| point["OMP_NUM_THREADS"] == "3"), "{points:?}");
}

#[test]
fn max_parallel_is_for_experiments_only() {
    for arguments in [
        &["neva_tiny", "--max-parallel", "2"][..],
        &["neva_tiny", "--sweep", "finetune.optim.lr=1,2", "--max-parallel", "0"],
    ] {
        let (code, _, stderr, dir) = Program::new("", arguments).run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains("--max-parallel"), "{stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
