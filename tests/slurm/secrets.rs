//! Secrets of the launcher's environment reach the ranks, and nothing that others can read.

use std::{fs, path::Path};

use crate::cluster::Cluster;

const SECRET: &str = "hf_DoNotShowThisToken1234567890";

/// Returns the files below `dir` that contain the secret.
fn holding(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(holding(&entry));
        } else if fs::read(&entry)
            .unwrap_or_default()
            .windows(SECRET.len())
            .any(|bytes| bytes == SECRET.as_bytes())
        {
            found.push(entry.display().to_string());
        }
    }
    found
}

/// The job is requeued once, so that what Slurm keeps is tried too. It compares the secret without printing it.
#[test]
fn a_secret_reaches_the_job_and_no_file() {
    let cluster = Cluster::shared();
    let script = format!(
        "import os\ntoken = os.environ['HF_TOKEN']\nassert len(token) == {} and token.endswith('890')\n\
         assert os.environ['HOME'] and os.environ['PATH']\nprint('start', os.environ.get('SLURM_RESTART_COUNT', '0'))\n\
         raise SystemExit(0 if os.environ.get('SLURM_RESTART_COUNT') else 3)\n",
        SECRET.len()
    );
    let file = cluster.dir.path().join("experiment.yaml");
    let inline: String = script.lines().map(|line| format!("        {line}\n")).collect();
    let text = format!(
        "name: secret\ntasks:\n  look:\n    task:\n      _target_: run.Script\n      entrypoint: python3\n      inline: |\n{inline}"
    );
    fs::write(&file, text).unwrap();
    for (name, executor) in [
        ("here", cluster.executor("here", "env_from: [HF_TOKEN]\nretries: 1")),
        ("far", cluster.ssh_executor("far", "env_from: [HF_TOKEN]\nretries: 1")),
    ] {
        let mut command = cluster.neva_run(&[
            &file.display().to_string(),
            "--executor",
            &executor,
            "--set",
            &format!("name=secret_{name}"),
        ]);
        command.env("HF_TOKEN", SECRET).env("NEVA_LOG", "trace");
        let ended = neva_tests::run(command).with_code(0);
        assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET));
        let logs = cluster.run(&["experiment", "logs", &format!("secret_{name}")]).with_code(0).stdout;
        assert!(logs.contains("start 0") && logs.contains("start 1"), "{logs}");
    }
    let jobs = cluster.output(&["scontrol", "show", "job", "--details"]);
    assert!(jobs.contains("JobState=COMPLETED") && !jobs.contains(SECRET));
    assert_eq!(holding(cluster.dir.path()), Vec::<String>::new());
}
