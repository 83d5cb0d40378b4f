//! Wrong settings: refused with Slurm's words and ours.

use crate::cluster::{Cluster, tiny, words};

/// Settings of the executor, the exit code, Slurm's words and ours.
const CASES: &[(&str, u8, &str, &str)] = &[
    ("executor.partition=nope", 2, "invalid partition specified: nope", "sinfo"),
    ("executor.account=nope", 2, "Invalid account", "executor.account"),
    ("executor.qos=nope", 2, "Invalid qos", "executor.qos"),
    (
        "executor.gpus_per_node=9",
        2,
        "Requested node configuration is not available",
        "num_gpus_per_node",
    ),
    (
        "executor.mem=900G",
        2,
        "Requested node configuration is not available",
        "executor.mem",
    ),
    (
        "executor.constraint=nope",
        2,
        "Invalid feature specification",
        "executor.constraint",
    ),
    (
        "executor.reservation=nope",
        2,
        "Requested reservation is invalid",
        "scontrol show reservation",
    ),
    ("executor.time=1x", 2, "", "time"),
    (
        "executor.additional_parameters={no-such-option: 1}",
        2,
        "unrecognized option",
        "executor.additional_parameters",
    ),
];

#[test]
fn wrong_settings_are_refused() {
    // Accounts and QOS exist only with accounting.
    let cluster = Cluster::start(
        "refusals",
        &[
            "--accounting",
            "--set",
            "AccountingStorageEnforce=associations,qos",
            "--set",
            "SlurmdTimeout=60",
        ],
    );
    let dir = cluster.dir.path().join("runs");
    let executor = cluster.executor("slurm", "");
    for (setting, code, theirs, ours) in CASES {
        let arguments = tiny(&dir, "refused", &["finetune.trainer.max_steps=1", setting]);
        let ended = cluster
            .run(&words(&arguments, &["--executor", &executor]))
            .with_code(i32::from(*code));
        let text = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(text.contains(theirs) && text.contains(ours), "{setting}: {}", ended.stderr);
    }
    assert_eq!(cluster.output(&["squeue", "-h"]), "");
}

#[test]
fn a_machine_without_slurm_is_refused() {
    let cluster = Cluster::shared();
    let dir = cluster.dir.path().join("runs");
    let executor = cluster.executor("slurm", "");
    let arguments = tiny(&dir, "none", &["finetune.trainer.max_steps=1"]);
    let mut command = cluster.neva_run(&words(&arguments, &["--executor", &executor]));
    // All programs but Slurm's.
    let bin = cluster.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in std::fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap()) {
        let file = name.file_name().to_string_lossy().into_owned();
        let slurms = ["sbatch", "squeue", "scancel", "scontrol", "sacct", "srun", "sinfo"];
        if !slurms.contains(&file.as_str()) {
            std::os::unix::fs::symlink(name.path(), bin.join(file)).unwrap();
        }
    }
    command.env("PATH", &bin);
    let ended = neva_tests::run(command).with_code(3);
    let text = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
    assert!(
        text.contains("there is no `sbatch` on this machine") && text.contains("login node"),
        "{}",
        ended.stderr
    );
}
