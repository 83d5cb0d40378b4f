//! Training in two pods on two nodes.

use std::{collections::BTreeSet, io::Read as _};

use neva_tests::{
    finish, run_folder,
    small::{losses, small, words},
    start, wait_for,
};

use crate::{
    cluster::Cluster,
    disturbed::{Effect, check_losses, disturbed},
};

/// Two nodes of two ranks: tensor parallel within a node, data parallel across both.
pub(crate) const TWO_BY_TWO: [&str; 3] = [
    "num_nodes=2",
    "num_gpus_per_node=2",
    "finetune.trainer.strategy.tensor_model_parallel_size=2",
];

/// The same mesh on this machine.
pub(crate) const ONE_BY_FOUR: [&str; 2] = ["num_gpus_per_node=4", "finetune.trainer.strategy.tensor_model_parallel_size=2"];

/// Divides the pods of a job among the nodes.
const SPREAD: &str = "topology_spread_constraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
     whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Honor}]";

#[test]
fn two_pods_on_two_nodes_train_as_one_machine_does() {
    let cluster = Cluster::any();
    let space = cluster.space("train");
    let long = ["finetune.trainer.max_steps=60"];
    let here = space.dir.path().join("here");
    let local = small(&here, "run", &[&long[..], &ONE_BY_FOUR].concat());
    let _ = space.run(&words(&local, &[])).with_code(0);
    let expected = losses(&run_folder(&here, "run"));

    for (name, lines, count) in [("pods", "", 2), ("ranks", "one_rank_per_pod: true", 4)] {
        let executor = space.executor(name, &format!("{SPREAD}\n{lines}"));
        let remote = small(&space.runs(), name, &[&long[..], &TWO_BY_TWO].concat());
        let mut launcher = start(space.neva_run(&words(&remote, &["--executor", &executor])));
        // The output of rank 0 arrives while the job runs.
        let mut output = launcher.stdout.take().unwrap();
        let run = wait_for("a run", || space.newest(name));
        let mut first = [0; 1];
        output.read_exact(&mut first).unwrap();
        let pods = space.pods();
        let nodes: BTreeSet<_> = pods.iter().map(|pod| pod.node.clone()).collect();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        let ended = finish(launcher).with_code(0);
        assert!(rest.contains("done: 60 steps"), "{rest}\n{}", ended.stderr);
        assert_eq!(space.losses(&run), expected, "{name}");
        assert_eq!(pods.len(), count, "{pods:?}");
        assert!(nodes.len() > 1, "{pods:?}");
        space.delete_jobs();
    }
}

/// One pod is deleted in the middle: all ranks start again, from the newest checkpoint.
#[test]
fn a_deleted_pod_is_replaced_and_the_job_resumes() {
    let cluster = Cluster::any();
    let space = cluster.space("deleted");
    let losses = disturbed(&space, "run", Effect::Resume, |lost| {
        let _ = space.kubectl(&["delete", "pod", &lost.name, "--wait=false"]);
        wait_for("a new pod", || {
            let pods = space.pods();
            pods.iter().any(|pod| pod.index == "1" && pod.name != lost.name).then_some(())
        });
    });
    check_losses(&space, &[("deleted", losses)]);
}
