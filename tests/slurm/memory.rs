//! A cluster whose nodes enforce memory limits, by cgroups of version 1.

use std::{path::Path, process::Command};

use neva_executors::{JobState, SlurmExecutor};
use neva_schemas::{SlurmExecutorConfig, exit_class};
use neva_tests::{root, run};

use crate::{cluster::Cluster, states};

const EAT: &str = "python3 -c 'x = b\"1\" * (400 << 20); print(len(x))'";

async fn failure(cluster: &Cluster, executor: &SlurmExecutor, name: &str, script: &str) -> (u8, String) {
    let job = states::submit(cluster, executor, name, script).await;
    let status = states::wait(executor, &job, name, |status| status.state.is_end()).await;
    match status.state {
        JobState::Failed(failure) => (failure.class, failure.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_job_that_exceeds_its_memory_is_reported() {
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        // The tests' cluster supports version 1 only, and says so.
        let mut up = Command::new(root().join("tests/slurm/slurm-up"));
        up.arg("--cgroup").arg(tempfile::tempdir().unwrap().path().join("cgroup"));
        assert!(run(up).with_code(1).stderr.contains("needs cgroup v1"));
        return;
    }
    let cluster = Cluster::start("cgroup", &["--nodes", "1", "--cgroup", "--set", "SlurmdTimeout=60"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let limited = |config: &mut SlurmExecutorConfig| config.mem = Some("60M".into());
        // Slurm itself reports only the step.
        let (class, text) = failure(&cluster, &states::executor(&cluster, limited), "step", EAT).await;
        assert!(
            class == exit_class::JOB && text.contains("exceeded the memory of the job"),
            "{text}"
        );
        // The batch script: its state is OUT_OF_MEMORY, though it goes on.
        let script = states::executor(&cluster, |config| {
            limited(config);
            config.setup_lines = Some(EAT.to_owned());
        });
        let (class, text) = failure(&cluster, &script, "batch", "true").await;
        assert!(
            class == exit_class::JOB && text.contains("the job exceeded the memory that it requested"),
            "{text}"
        );
    });
}
