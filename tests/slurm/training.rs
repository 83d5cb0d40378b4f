//! Training on two nodes, submitted through sshd.

use std::{fs, io::Read as _};

pub(crate) use neva_tests::small::{losses, newest, steps};
use neva_tests::{finish, run_folder, start, wait_for};

use crate::cluster::{Cluster, tiny, words};

/// Two nodes of two ranks: tensor parallel within a node, data parallel across both.
pub(crate) const TWO_BY_TWO: [&str; 3] = [
    "num_nodes=2",
    "num_gpus_per_node=2",
    "finetune.trainer.strategy.tensor_model_parallel_size=2",
];

/// The same mesh on this machine.
pub(crate) const ONE_BY_FOUR: [&str; 2] = ["num_gpus_per_node=4", "finetune.trainer.strategy.tensor_model_parallel_size=2"];

#[test]
fn two_nodes_through_sshd_train_as_one_machine_does() {
    let cluster = Cluster::shared();
    let (here, far) = (cluster.dir.path().join("here"), cluster.dir.path().join("far"));
    let long = ["finetune.trainer.max_steps=60"];
    let local = tiny(&here, "run", &[&long[..], &ONE_BY_FOUR].concat());
    let _ = cluster.run(&words(&local, &[])).with_code(0);

    let executor = cluster.ssh_executor("far", "");
    let mut remote = tiny(&far, "run", &[&long[..], &TWO_BY_TWO].concat());
    // Without `dir`, the run is in the tunnel's folder.
    let dir = remote.iter().position(|word| word.starts_with("dir=")).unwrap();
    remote.drain(dir - 1..=dir);
    let mut launcher = start(cluster.neva_run(&words(&remote, &["--executor", &executor])));

    // The output of rank 0 arrives while the job runs.
    let mut output = launcher.stdout.take().unwrap();
    let run = wait_for("a run", || newest(&far, "run"));
    let id = cluster.job_of(&run);
    let mut first = [0; 1];
    output.read_exact(&mut first).unwrap();
    let state = cluster.output(&["squeue", "-h", "-t", "all", "-j", &id, "-o", "%T"]);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let ended = finish(launcher).with_code(0);
    assert!(["RUNNING", "COMPLETING", "COMPLETED"].contains(&state.as_str()), "{state}");
    assert!(rest.contains("done: 60 steps"), "{rest}");
    assert!(ended.stderr.contains(&format!("submitted as job {id}")), "{}", ended.stderr);

    assert_eq!(losses(&run), losses(&run_folder(&here, "run")));
    // The ranks were on both nodes.
    assert!((0..4).all(|rank| run.join(format!("logs/rank{rank}.log")).is_file()));
    let nodes = cluster.output(&["scontrol", "-o", "show", "job", &id]);
    assert!(nodes.contains("NodeList=n[1-2]"), "{nodes}");
    // The progress and the key are in the comment.
    assert!(nodes.contains("Comment=neva-run:"), "{nodes}");
}

/// An experiment that another process asks about while it runs, through sshd.
#[test]
fn another_process_sees_the_state_and_the_output() {
    let cluster = Cluster::shared();
    let executor = cluster.ssh_executor("far", "");
    let far = cluster.dir.path().join("far");
    let mut arguments = tiny(&far, "watched", &["finetune.trainer.max_steps=100000"]);
    let dir = arguments.iter().position(|word| word.starts_with("dir=")).unwrap();
    arguments.drain(dir - 1..=dir);
    let _ = cluster.run(&words(&arguments, &["--executor", &executor, "--detach"])).with_code(0);
    let status = |text: &str| {
        wait_for(text, || {
            let status = cluster.run(&["experiment", "status", "watched"]).with_code(0).stdout;
            status.contains(text).then_some(status)
        })
    };
    let running = status("runs on n");
    assert!(running.contains("running") && running.contains("job "), "{running}");
    wait_for("steps in the log", || {
        let log = cluster.run(&["experiment", "logs", "watched"]).with_code(0).stdout;
        log.contains("step").then_some(())
    });
    let _ = cluster.run(&["experiment", "cancel", "watched"]).with_code(0);
    let _ = status("cancelled");
    // It saved before it ended.
    let report = far.join("experiments/watched");
    let run = wait_for("the run's folder", || {
        Some(fs::read_dir(&report).ok()?.next()?.ok()?.path().join("tasks/train"))
    });
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(run.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["stopped"], "SIGTERM");
}
