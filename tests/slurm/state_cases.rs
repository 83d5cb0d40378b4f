//! The rows of the table of states: each a script, what happens to it, and the expected report.

use neva_schemas::{SlurmExecutorConfig, exit_class};

use crate::cluster::Cluster;

/// A way to end or wait.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Text of the script, for `sh`.
    pub(crate) script: &'static str,
    pub(crate) settings: fn(&mut SlurmExecutorConfig),
    /// What happens to the job with this number, once it runs.
    pub(crate) disturb: fn(&Cluster, &str),
    pub(crate) expected: Expected,
}

/// Expected report.
pub(crate) enum Expected {
    Succeeded,
    Cancelled,
    /// Class, and a part of the message.
    Failed(u8, &'static str),
    /// It waits for this reason, with at least so many requeues; it is cancelled then.
    Waits(&'static str, u32),
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "exit 0",
        script: "exit 0",
        settings: |_| {},
        disturb: |_, _| {},
        expected: Expected::Succeeded,
    },
    Case {
        name: "exit 7",
        script: "echo last words; exit 7",
        settings: |_| {},
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::JOB, "exit code 7"),
    },
    Case {
        name: "the process is killed",
        script: "kill -KILL $$",
        settings: |_| {},
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::JOB, "killed by SIGKILL"),
    },
    Case {
        name: "a segmentation fault",
        script: "kill -SEGV $$",
        settings: |_| {},
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::JOB, "killed by SIGSEGV"),
    },
    Case {
        name: "the batch script is killed",
        script: "sleep 100",
        settings: |_| {},
        disturb: |cluster, id| drop(cluster.output(&["scancel", "--batch", "--signal=KILL", id])),
        expected: Expected::Failed(exit_class::JOB, "the batch script was killed by SIGKILL"),
    },
    Case {
        name: "more memory than it requested",
        script: "python3 -c 'import time; x = b\"1\" * (400 << 20); time.sleep(60)'",
        settings: |config| config.mem = Some("50M".into()),
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::JOB, "it exceeded the memory of the job"),
    },
    Case {
        name: "a program is missing",
        script: "exec nowhere/at/all",
        settings: |_| {},
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::CLUSTER, "not found"),
    },
    Case {
        name: "setup_lines fail",
        script: "exit 0",
        settings: |config| config.setup_lines = Some("module_that_is_missing || exit 127".into()),
        disturb: |_, _| {},
        expected: Expected::Failed(exit_class::CLUSTER, "exit code 127"),
    },
    Case {
        name: "scancel while it runs",
        script: "sleep 100",
        settings: |_| {},
        disturb: |cluster, id| drop(cluster.output(&["scancel", id])),
        expected: Expected::Cancelled,
    },
    Case {
        name: "scancel of a script that exits with 0 then",
        script: "trap 'exit 0' TERM; while :; do sleep 0.1; done",
        settings: |_| {},
        disturb: |cluster, id| drop(cluster.output(&["scancel", id])),
        expected: Expected::Cancelled,
    },
    Case {
        name: "scancel while it waits",
        script: "exit 0",
        settings: |config| config.additional_parameters = parameter("hold"),
        disturb: |cluster, id| drop(cluster.output(&["scancel", id])),
        expected: Expected::Cancelled,
    },
    Case {
        name: "held",
        script: "exit 0",
        settings: |config| config.additional_parameters = parameter("hold"),
        disturb: |_, _| {},
        expected: Expected::Waits("JobHeldUser", 0),
    },
    Case {
        name: "requeued by scontrol",
        script: "[ -n \"$SLURM_RESTART_COUNT\" ] || sleep 100",
        settings: |_| {},
        disturb: |cluster, id| drop(cluster.output(&["scontrol", "requeue", id])),
        expected: Expected::Succeeded,
    },
    Case {
        name: "requeued and held",
        script: "sleep 100",
        settings: |_| {},
        disturb: |cluster, id| drop(cluster.output(&["scontrol", "requeuehold", id])),
        expected: Expected::Waits("job_requeued_in_held_state", 1),
    },
    Case {
        name: "a dependency that failed",
        script: "exit 0",
        settings: |config| {
            config.dependencies = vec!["1".into()];
            config.dependency_type = "afternotok".into();
        },
        disturb: |_, _| {},
        expected: Expected::Cancelled,
    },
    Case {
        name: "more nodes than there are",
        script: "exit 0",
        settings: |config| config.nodes = Some(5),
        disturb: |_, _| {},
        expected: Expected::Waits("PartitionNodeLimit", 0),
    },
];

/// Rows that take a minute or more, in `make soak`.
pub(crate) const SLOW: &[Case] = &[Case {
    name: "the time limit",
    script: "sleep 1000",
    settings: |config| config.time = "1".into(),
    disturb: |_, _| {},
    expected: Expected::Failed(exit_class::JOB, "time limit"),
}];

pub(crate) fn parameter(name: &str) -> Option<std::collections::BTreeMap<String, Option<neva_schemas::SlurmParameter>>> {
    serde_json::from_value(serde_json::json!({ name: true })).unwrap()
}
