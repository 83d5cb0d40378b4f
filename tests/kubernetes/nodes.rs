//! Drained, killed and lost nodes, on a cluster of three.

use std::{thread::sleep, time::Duration};

use neva_tests::{
    finish,
    small::{losses, newest, small, steps, words},
    start, wait_for,
};

use crate::{
    cluster::{Cluster, Space},
    training::{TWO_BY_TWO, local_losses},
};

const LONG: [&str; 1] = ["finetune.trainer.max_steps=500"];

/// Trains, disturbs the node of pod 1 after 20 steps, and compares the losses with those of this machine.
fn survives(space: &Space<'_>, expected: &std::collections::BTreeMap<u64, u64>, name: &str, disturb: impl FnOnce(&str)) -> String {
    let executor = space.executor("kubernetes", "termination_grace_period_seconds: 20\nretries: 1");
    let arguments = small(&space.runs(), name, &[&LONG[..], &TWO_BY_TWO].concat());
    let launcher = start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    let run = wait_for("a run", || newest(&space.runs(), name));
    wait_for("steps", || (steps(&run) > 20).then_some(()));
    let pods = space.pods();
    let pod = pods.iter().find(|pod| pod.index == "1").expect("the second pod");
    disturb(&pod.node);
    let ended = finish(launcher).with_code(0);
    assert!(ended.stdout.contains("done: 500 steps"), "{name}: {}", ended.stdout);
    assert_eq!(&losses(&run), expected, "{name}");
    let _ = space.kubectl(&["delete", "jobs", "--all"]);
    ended.stdout
}

#[test]
fn a_job_survives_what_happens_to_nodes() {
    let cluster = Cluster::start("nodes", 3);
    let space = cluster.space("nodes");
    let expected = local_losses(&space, &LONG);

    // An administrator drains the node: the pod is evicted, saves, and starts on the third node.
    let output = survives(&space, &expected, "drained", |node| {
        let _ = space.kubectl(&[
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=90s",
        ]);
    });
    assert!(output.contains("resumes from"), "{output}");
    let _ = space.kubectl(&["uncordon", "node1", "node2", "node3"]);

    // The kubelet dies and comes back before the node counts as lost: nothing happens to the ranks.
    let output = survives(&space, &expected, "kubelet", |node| {
        cluster.node(node, "kubelet-stop");
        sleep(Duration::from_secs(5));
        cluster.node(node, "kubelet-start");
    });
    assert!(!output.contains("resumes from"), "{output}");

    // The node dies with everything on it, and comes back.
    let output = survives(&space, &expected, "crashed", |node| {
        cluster.node(node, "crash");
        sleep(Duration::from_secs(5));
        cluster.node(node, "start");
    });
    assert!(output.contains("resumes from"), "{output}");

    // The node dies for good: the job goes on once the node is removed from the cluster.
    let output = survives(&space, &expected, "removed", |node| {
        cluster.node(node, "crash");
        wait_for("the loss of the node", || {
            let taints = space.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"]);
            taints.contains("unreachable").then_some(())
        });
        let _ = space.kubectl(&["delete", "node", node]);
    });
    assert!(output.contains("resumes from"), "{output}");
}
