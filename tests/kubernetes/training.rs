//! Training in two pods on two nodes.

use std::{collections::BTreeSet, io::Read as _};

use neva_tests::{
    finish, run_folder,
    small::{losses, newest, small, steps, words},
    start, wait_for,
};

use crate::cluster::{Cluster, Space};

/// Two nodes of two ranks: tensor parallel within a node, data parallel across both.
pub(crate) const TWO_BY_TWO: [&str; 3] = [
    "num_nodes=2",
    "num_gpus_per_node=2",
    "finetune.trainer.strategy.tensor_model_parallel_size=2",
];

/// The same mesh on this machine.
pub(crate) const ONE_BY_FOUR: [&str; 2] = ["num_gpus_per_node=4", "finetune.trainer.strategy.tensor_model_parallel_size=2"];

/// Trains the run `name` on this machine, and returns the bits of its losses.
#[track_caller]
pub(crate) fn local_losses(space: &Space<'_>, more: &[&str]) -> std::collections::BTreeMap<u64, u64> {
    let here = space.dir.path().join("here");
    let local = small(&here, "run", &[more, &ONE_BY_FOUR].concat());
    let _ = space.run(&words(&local, &[])).with_code(0);
    losses(&run_folder(&here, "run"))
}

#[test]
fn two_pods_on_two_nodes_train_as_one_machine_does() {
    let cluster = Cluster::shared();
    let space = cluster.space("train");
    let long = ["finetune.trainer.max_steps=60"];
    let expected = local_losses(&space, &long);

    for (name, lines) in [("pods", ""), ("ranks", "one_rank_per_pod: true")] {
        let executor = space.executor(name, lines);
        let remote = small(&space.runs(), name, &[&long[..], &TWO_BY_TWO].concat());
        let mut launcher = start(space.neva_run(&words(&remote, &["--executor", &executor])));
        // The output of rank 0 arrives while the job runs.
        let mut output = launcher.stdout.take().unwrap();
        let run = wait_for("a run", || newest(&space.runs(), name));
        let mut first = [0; 1];
        output.read_exact(&mut first).unwrap();
        let pods = space.pods();
        let nodes: BTreeSet<_> = pods.iter().map(|pod| pod.node.clone()).collect();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        let ended = finish(launcher).with_code(0);
        assert!(rest.contains("done: 60 steps"), "{rest}\n{}", ended.stderr);
        assert_eq!(losses(&run), expected, "{name}");
        assert_eq!(pods.len(), if lines.is_empty() { 2 } else { 4 }, "{pods:?}");
        assert_eq!(nodes, ["node1".to_owned(), "node2".to_owned()].into(), "{pods:?}");
        // Deleting the job deletes everything that belongs to it.
        let _ = space.kubectl(&["delete", "jobs", "--all"]);
        for kind in ["pods", "services", "secrets"] {
            wait_for("the garbage collector", || space.objects(kind).is_empty().then_some(()));
        }
        wait_for("the garbage collector", || {
            let maps = space.objects("configmaps");
            maps.iter().all(|map| map["metadata"]["name"] == "kube-root-ca.crt").then_some(())
        });
    }
}

/// One pod is deleted in the middle: all ranks start again, from the newest checkpoint.
#[test]
fn a_deleted_pod_is_replaced_and_the_job_resumes() {
    let cluster = Cluster::shared();
    let space = cluster.space("deleted");
    let long = ["finetune.trainer.max_steps=400"];
    let expected = local_losses(&space, &long);
    let executor = space.executor("kubernetes", "");
    let remote = small(&space.runs(), "run", &[&long[..], &TWO_BY_TWO].concat());
    let launcher = start(space.neva_run(&words(&remote, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&space.runs(), "run"));
    wait_for("steps", || (steps(&run) > 20).then_some(()));
    let before = space.pods();
    let lost = before.iter().find(|pod| pod.index == "1").expect("the second pod");
    let _ = space.kubectl(&["delete", "pod", &lost.name, "--wait=false"]);
    wait_for("a new pod", || {
        let pods = space.pods();
        pods.iter().any(|pod| pod.index == "1" && pod.name != lost.name).then_some(())
    });
    let ended = finish(launcher).with_code(0);
    assert!(ended.stdout.contains("resumes from"), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("done: 400 steps"), "{}", ended.stdout);
    assert_eq!(losses(&run), expected);
}
