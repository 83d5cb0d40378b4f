//! Tasks of arrays and groups with packaged code.

use std::{fs, path::Path, process::Command};

use neva_tests::run;

use crate::{
    cluster::Cluster,
    experiments::{command, status},
};

#[track_caller]
fn git(repository: &Path, words: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
        .args(words)
        .current_dir(repository);
    let _ = run(git).with_code(0);
}

/// Commits a script that prints `text` and ends with `code`.
fn commit(repository: &Path, text: &str, code: u8) {
    fs::create_dir_all(repository.join("lib")).unwrap();
    fs::write(
        repository.join("lib/say.sh"),
        format!("echo {text} $1 $(ls | wc -l)\n: >mine\nexit {code}\n"),
    )
    .unwrap();
    git(repository, &["add", "lib"]);
    git(repository, &["commit", "--quiet", "--message", text]);
}

/// Runs an experiment whose tasks share one job, corrects the code, and resumes it.
fn corrected(cluster: &Cluster, name: &str, executor: &str, groups: &str) {
    let repository = cluster.dir.path().join("my code").join(name);
    fs::create_dir_all(&repository).unwrap();
    git(&repository, &["init", "--quiet"]);
    fs::write(repository.join(".gitignore"), "home\n*.yaml\n").unwrap();
    commit(&repository, "wrong", 5);
    let mut text = format!("name: {name}\n{groups}tasks:\n");
    for task in ["one", "two", "three"] {
        text += &format!("  {task}:\n    task: {{_target_: run.Script, inline: \"sh lib/say.sh {task}\"}}\n");
    }
    let file = format!("{name}.yaml");
    fs::write(repository.join(&file), text).unwrap();
    let logs = |task: &str| {
        run(command(cluster, &repository, &["experiment", "logs", name, task]))
            .with_code(0)
            .stdout
    };
    let first = run(command(cluster, &repository, &[&file, "--executor", executor])).with_code(1);
    for task in ["one", "two", "three"] {
        // The folder is that of the code alone, and no task sees files of another.
        assert!(logs(task).contains(&format!("wrong {task} 1")), "{}\n{}", logs(task), first.stderr);
    }
    // A file that is not committed is not taken, and named.
    fs::write(repository.join("lib/say.sh"), "echo uncommitted\n").unwrap();
    let warned = run(command(cluster, &repository, &["experiment", "resume", name])).with_code(1);
    assert!(warned.stderr.contains("lib/say.sh"), "{}", warned.stderr);
    assert!(
        logs("one").contains("wrong one") && !logs("one").contains("uncommitted"),
        "{}",
        logs("one")
    );
    commit(&repository, "right", 0);
    let ended = run(command(cluster, &repository, &["experiment", "resume", name])).with_code(0);
    let shown = status(cluster, &repository, name);
    for task in ["one", "two", "three"] {
        let is_done = |line: &str| line.trim_start().starts_with(task) && line.contains("succeeded");
        assert!(shown.lines().any(is_done), "{shown}\n{}", ended.stderr);
        assert!(logs(task).contains(&format!("right {task} 1")), "{}", logs(task));
    }
}

#[test]
fn tasks_of_an_array_run_the_committed_code() {
    let cluster = Cluster::shared();
    let packager = "packager: {_target_: run.GitArchivePackager}";
    corrected(&cluster, "here", &cluster.executor("packed", packager), "");
}

#[test]
fn tasks_of_an_array_run_the_committed_code_over_ssh() {
    let cluster = Cluster::shared();
    let packager = "packager: {_target_: run.GitArchivePackager}";
    corrected(&cluster, "far", &cluster.ssh_executor("packed-far", packager), "");
}

#[test]
fn tasks_of_a_group_run_the_committed_code() {
    let cluster = Cluster::shared();
    // Each runs to its end.
    let lines = "packager: {_target_: run.GitArchivePackager}\nmonitor_group_job: false\nwait_time_for_group_job: 0";
    let groups = "groups: {all: [one, two, three]}\n";
    corrected(&cluster, "group", &cluster.executor("packed-group", lines), groups);
}
