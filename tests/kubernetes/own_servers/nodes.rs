//! Drained, killed and lost nodes, on a cluster of three.

use std::{thread::sleep, time::Duration};

use neva_tests::wait_for;

use crate::{
    cluster::Cluster,
    disturbed::{
        Effect::{None, Resume},
        check_losses, disturbed,
    },
};

/// Time for which a node or its kubelet is away; it does not count as lost.
const AWAY: Duration = Duration::from_secs(5);

#[test]
fn a_job_survives_what_happens_to_nodes() {
    let cluster = Cluster::start("nodes", 3);
    let space = cluster.space("nodes");

    // An administrator drains the node: the pod is evicted, saves, and starts on the third node.
    let drained = disturbed(&space, "drained", Resume, |pod| {
        let options = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"];
        let _ = space.kubectl(&[&["drain", &pod.node][..], &options].concat());
    });
    let _ = space.kubectl(&["uncordon", "node1", "node2", "node3"]);

    // The kubelet dies and comes back before the node counts as lost: nothing happens to the ranks.
    let kubelet = disturbed(&space, "kubelet", None, |pod| {
        cluster.node(&pod.node, "kubelet-stop");
        sleep(AWAY);
        cluster.node(&pod.node, "kubelet-start");
    });

    // The node dies with everything on it, and comes back.
    let crashed = disturbed(&space, "crashed", Resume, |pod| {
        cluster.node(&pod.node, "crash");
        sleep(AWAY);
        cluster.node(&pod.node, "start");
    });

    check_losses(&space, &[("drained", drained), ("kubelet", kubelet), ("crashed", crashed)]);
}

/// The node dies for good: the job goes on once the node is removed from the cluster.
#[test]
#[ignore = "Kubernetes takes more than a minute to forget a node: make soak runs it"]
fn a_job_survives_the_loss_of_a_node() {
    let cluster = Cluster::start("lost", 3);
    let space = cluster.space("lost");
    let removed = disturbed(&space, "removed", Resume, |pod| {
        cluster.node(&pod.node, "crash");
        wait_for("the loss of the node", || {
            let taints = space.kubectl(&["get", "node", &pod.node, "-o", "jsonpath={.spec.taints[*].key}"]);
            taints.contains("unreachable").then_some(())
        });
        let _ = space.kubectl(&["delete", "node", &pod.node]);
    });
    check_losses(&space, &[("removed", removed)]);
}
