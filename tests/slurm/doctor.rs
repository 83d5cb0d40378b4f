//! `neva-run doctor --executor` on a real cluster, on this machine and through both SSH clients.

use std::fs;

use crate::cluster::Cluster;

#[test]
fn doctor_finds_a_cluster_in_order() {
    let cluster = Cluster::shared();
    let here = cluster.executor(
        "here",
        &format!("tunnel:\n  _target_: run.LocalTunnel\n  job_dir: {}", cluster.dir.path().display()),
    );
    let far = cluster.ssh_executor("far", "");
    for (file, client) in [(&here, "openssh"), (&far, "openssh"), (&far, "ssh2")] {
        let site = cluster.dir.path().join("site.yaml");
        let site = site.to_str().unwrap();
        let set = format!("executor.tunnel.program={client}");
        let mut arguments = vec!["doctor", "--executor", file, "--write", site, "--yes"];
        if file == &far {
            arguments.extend(["--set", &set]);
        }
        let ended = cluster.run(&arguments).with_code(0);
        let names: Vec<_> = ended
            .stdout
            .lines()
            .map(|line| line.split_whitespace().nth(1).unwrap_or_default())
            .collect();
        let all = [
            "login",
            "sbatch",
            "controller",
            "accounting",
            "partition",
            "gpu",
            "node",
            "folder",
            "neva-rank",
        ];
        assert_eq!(names, all, "{}", ended.stdout);
        assert!(ended.stdout.contains(" is shared with the nodes"), "{}", ended.stdout);
        assert!(ended.stdout.contains(" with libtorch 2.11"), "{}", ended.stdout);
        // The draft is an executor file, and leads to the same cluster.
        let _ = cluster.run(&["validate", site]).with_code(0);
        let text = fs::read_to_string(site).unwrap();
        assert_eq!(text.contains("run.SSHTunnel"), file == &far, "{text}");
        let again = ["doctor", "--executor", site, "--set", "executor.gpus_per_node=0"];
        let _ = cluster.run(&again).with_code(0);
    }
    // Nothing stays in the folder of runs but the uploaded program.
    let mut left: Vec<_> = fs::read_dir(cluster.dir.path().join(".neva-run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.retain(|name| name != "programs");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn doctor_names_what_a_cluster_does_not_have() {
    let cluster = Cluster::shared();
    let file = cluster.executor(
        "here",
        &format!("tunnel:\n  _target_: run.LocalTunnel\n  job_dir: {}", cluster.dir.path().display()),
    );
    for (set, expect) in [
        ("executor.partition=nope", "there is no partition nope"),
        ("executor.gpus_per_node=99", "`gpus_per_node` is 99"),
        ("executor.rank_program=/no/such/neva-rank", "/no/such/neva-rank is not on n"),
    ] {
        let ended = cluster.run(&["doctor", "--executor", &file, "--set", set]).with_code(3);
        assert!(ended.stdout.contains(expect), "{expect}: {}", ended.stdout);
    }
}
