//! `neva-run doctor --executor` on a real cluster.

use neva_tests::{Ended, run};

use crate::{cluster::Cluster, space::Space};

/// Names of all checks, in order.
const ALL: [&str; 9] = [
    "cluster",
    "permission",
    "quota",
    "node",
    "gpu",
    "storage",
    "image",
    "folder",
    "neva-rank",
];

fn doctor(space: &Space<'_>, executor: &str, more: &[&str]) -> Ended {
    let mut arguments = vec!["doctor", "--executor", executor];
    arguments.extend(more.iter().flat_map(|set| ["--set", set]));
    space.run(&arguments)
}

/// Returns the names of the checks that were printed.
fn names(ended: &Ended) -> Vec<&str> {
    let lines = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("ok ") || line.starts_with("MISSING "));
    lines.map(|line| line.split_whitespace().nth(1).unwrap_or_default()).collect()
}

#[test]
fn doctor_finds_a_cluster_in_order() {
    let cluster = Cluster::shared();
    let space = cluster.space("doctor");
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: team, namespace: {}}}, spec: {{hard: {{pods: 5}}}}}}",
        space.name
    ));
    let executor = space.executor("kubernetes", "");
    let ended = doctor(&space, &executor, &[]).with_code(0);
    assert_eq!(names(&ended), ALL, "{}", ended.stdout);
    for expect in [
        "Kubernetes v1.36.3",
        "2 of 2 usable",
        "of 5 pods used",
        "storage classes: shared",
        "pods can write to ",
        " with libtorch 2.11",
    ] {
        assert!(ended.stdout.contains(expect), "{expect}: {}", ended.stdout);
    }
}

#[test]
fn doctor_names_what_a_cluster_does_not_have() {
    let cluster = Cluster::shared();
    let space = cluster.space("missing");
    let executor = space.executor("kubernetes", "");
    for (set, check, expect) in [
        ("executor.context=nope", "cluster", "nope"),
        (
            "executor.node_selector.zone=nope",
            "node",
            "none of 2 nodes has the labels zone=nope",
        ),
        ("executor.gpus_per_node=9", "gpu", "no usable node has more than 0 nvidia.com/gpu"),
        (
            "executor.volumes=[{mount_path: /runs, claim: nope}]",
            "storage",
            "there is no claim nope",
        ),
        ("executor.volumes=[]", "storage", "no volume is shared by the pods"),
        ("executor.image=registry.invalid/no/such:1", "image", "registry.invalid/no/such:1"),
        (
            "executor.rank_program=/no/such/neva-rank",
            "neva-rank",
            "/no/such/neva-rank does not run",
        ),
        ("executor.volumes[0].read_only=true", "storage", "no volume is shared by the pods"),
    ] {
        let ended = doctor(&space, &executor, &[set]).with_code(3);
        assert_eq!(names(&ended).last(), Some(&check), "{set}: {}", ended.stdout);
        let text = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(expect), "{expect}: {}", ended.stdout);
    }
}

/// The commands that doctor prints give an account what it lacks.
#[test]
fn doctor_prints_the_role_that_an_account_needs() {
    let cluster = Cluster::shared();
    let space = cluster.space("role");
    let kubeconfig = space.account("user", "[{apiGroups: [''], resources: [pods], verbs: [get, list]}]");
    let executor = space.executor("kubernetes", "");
    let look = || {
        let mut command = space.neva_run(&["doctor", "--executor", &executor]);
        command.env("KUBECONFIG", &kubeconfig);
        run(command)
    };
    let ended = look().with_code(3);
    assert!(
        ended
            .stdout
            .contains("the account may not create, get, list, watch, patch, delete jobs.batch"),
        "{}",
        ended.stdout
    );
    let commands = ended
        .stdout
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("kubectl create "));
    let mut count = 0;
    for line in commands {
        let line = line.replace("--user=YOU", &format!("--serviceaccount={}:user", space.name));
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        let _ = run(cluster.kubectl(&words)).with_code(0);
        count += 1;
    }
    assert!(count >= 4, "{}", ended.stdout);
    // It may not list nodes, and needs not.
    let ended = look().with_code(0);
    assert!(ended.stdout.contains("unknown: the account may not list nodes"), "{}", ended.stdout);
    // With a token that the server does not accept, the first check says so.
    let stranger = space.with_token("stranger", "nothing");
    let mut command = space.neva_run(&["doctor", "--executor", &executor]);
    command.env("KUBECONFIG", stranger);
    let ended = run(command).with_code(3);
    assert!(ended.stdout.contains("Unauthorized"), "{}", ended.stdout);
}
