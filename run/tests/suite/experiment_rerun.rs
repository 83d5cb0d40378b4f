//! Experiments that are resumed, rerun and compared.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use neva_schemas::exit_class;
use serde_json::Value;

use crate::{
    experiment_home::{Home, states, text_of},
    experiment_program::{WAIT, alive, detach, process_of, until_over},
    process::{self, wait_for},
};

#[test]
fn a_killed_launcher_is_replaced_by_another() {
    let home = Home::new();
    home.scripts(
        "killed",
        &[
            ("first", "echo x >> first-ran", ""),
            (
                "second",
                &format!("{WAIT} echo $$ >> pids; wait_for go; echo x >> second-ran"),
                ", depends_on: [first]",
            ),
            ("third", "echo x >> third-ran", ", depends_on: [second]"),
        ],
    );
    let mut launcher = home.spawn(&["exp.yaml"]);
    let orphan = process_of(&home, "killed", "second", "pids");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let status = home.status("killed");
    assert_eq!(
        (&status["state"], states(&status)),
        (&"interrupted".into(), vec!["succeeded".into(), "running".into(), "pending".into()])
    );
    let text = home.done(&["experiment", "status", "killed"]);
    assert!(text.contains("interrupted"), "{text}");
    assert!(alive(orphan), "a script outlives a killed launcher");

    let (_, _, stderr) = home.run(&["exp.yaml", "--dry-run"]);
    assert_eq!(stderr, "", "a dry run starts nothing");
    let resumed = home.spawn(&["experiment", "resume", "killed"]);
    wait_for("the second attempt", || {
        (fs::read_to_string(home.path("pids")).unwrap().lines().count() == 2).then_some(())
    });
    assert!(!alive(orphan), "the first attempt must not run during the second");
    fs::write(home.path("go"), "").unwrap();
    let (code, _, stderr) = process::end(resumed);
    assert_eq!(code, 0, "{stderr}");
    for name in ["first-ran", "second-ran", "third-ran"] {
        assert_eq!(fs::read_to_string(home.path(name)).unwrap(), "x\n", "{name}: once");
    }
    assert_eq!(home.status("killed")["state"], "succeeded");
    let (code, _, stderr) = home.run(&["experiment", "resume", "killed"]);
    assert_eq!(code, i32::from(exit_class::INPUT));
    assert!(stderr.contains("has already succeeded"), "{stderr}");
}

#[test]
fn a_new_start_of_an_interrupted_experiment_prints_how_to_resume() {
    let home = Home::new();
    home.scripts("anew", &[("a", &format!("{WAIT} echo x > started; wait_for go"), "")]);
    let mut launcher = home.spawn(&["exp.yaml"]);
    text_of(&home.path("started"));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let id = home.folder("anew").unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(home.path("go"), "").unwrap();
    let (code, _, stderr) = home.run(&["exp.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.starts_with(&format!(
            "note: {id} was interrupted; this starts a new one, `neva-run experiment resume {id}` resumes the old one\n"
        )),
        "{stderr}"
    );
    home.done(&["experiment", "resume", &id]);
    assert_eq!(home.status(&id)["state"], "succeeded");
}

#[test]
fn a_running_launcher_is_not_replaced() {
    let home = Home::new();
    home.scripts("one", &[("a", &format!("{WAIT} wait_for go"), "")]);
    let id = detach(&home);
    for command in [&["experiment", "resume", &id][..], &["experiment", "remove", &id, "--yes"]] {
        let (code, _, stderr) = home.run(command);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains("is running"), "{stderr}");
    }
    // Queries do not block the launcher.
    let queries: Vec<_> = (0..4).map(|_| home.spawn(&["experiment", "status", &id])).collect();
    queries.into_iter().for_each(|query| assert_eq!(process::end(query).0, 0));
    fs::write(home.path("go"), "").unwrap();
    assert_eq!(until_over(&home, &id)["state"], "succeeded");
}

#[test]
fn a_retried_point_of_a_sweep_resumes_from_its_own_checkpoint() {
    let home = Home::new();
    let arguments = ["neva_tiny", "--sweep", "finetune.optim.lr=1e-3,2e-3", "--retries", "2"];
    let child = home
        .command(&arguments)
        .env("FAKE_RANK", "fails 2 1")
        .env("ATTEMPTS", "1")
        .spawn()
        .unwrap();
    let (code, stdout, stderr) = process::end(child);
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    let folder = home.folder("default").unwrap();
    for task in ["lr=1e-3", "lr=2e-3"] {
        let dir = folder.join("tasks").join(task);
        assert_eq!(fs::read_to_string(dir.join("attempts")).unwrap(), "3\n");
        // The third attempt finds the checkpoint of the second.
        assert!(dir.join("checkpoints/10/checkpoint.json").is_file());
        assert!(stderr.contains(&format!("{task}: started, attempt 3")), "{stderr}");
        assert_eq!(stderr.matches(&format!("{task}: attempt ")).count(), 2, "{stderr}");
    }
    let status = home.status("default");
    assert_eq!(status["tasks"][1]["report"]["losses"], serde_json::json!([7.5, 0.25]));
    assert_eq!(status["tasks"][1]["attempts"], 3);
}

#[test]
fn a_rerun_needs_only_the_store_and_reports_differences() {
    let home = Home::new();
    let dir = home.dir.path();
    fs::write(dir.join("photos.json"), "[]").unwrap();
    fs::write(dir.join("hello.sh"), "echo old\n").unwrap();
    fs::write(
        dir.join("exp.yaml"),
        "name: again\ntasks:\n  hello: {task: {_target_: run.Script, path: hello.sh}}\n  train:\n    task:\n      _factory_: neva_tiny\n      finetune: {data: {_target_: vlm.NevaPreloadedDataModule, paths: photos.json, tokenizer: 'builtin:mistral_2k', seq_length: 128, global_batch_size: 8, micro_batch_size: 4}}\n",
    )
    .unwrap();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(dir)
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments);
        assert!(git.stdout(Stdio::null()).status().unwrap().success());
    };
    git(&["init", "-q"]);
    git(&["add", "hello.sh"]);
    git(&["commit", "-q", "-m", "first"]);
    home.done(&["exp.yaml"]);
    let first = home.folder("again").unwrap();
    let id = first.file_name().unwrap().to_str().unwrap().to_owned();

    // Nothing differs.
    fs::remove_file(dir.join("exp.yaml")).unwrap();
    let (code, stdout, stderr) = home.run(&["experiment", "rerun", &id, "--output", "json"]);
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &result["differences"]), (0, &serde_json::json!([])), "{stderr}");
    let second = home.folder("again").unwrap();
    assert_ne!(first, second);
    let record = |folder: &Path| -> Value { serde_json::from_slice(&fs::read(folder.join("experiment.json")).unwrap()).unwrap() };
    assert_eq!(record(&second)["rerun_of"], id.as_str());
    assert_eq!(record(&second)["experiment"], record(&first)["experiment"]);
    assert_eq!(record(&second)["data"], record(&first)["data"]);

    // Program, data, script and working directory differ.
    fs::write(dir.join("photos.json"), "[ ]").unwrap();
    fs::write(dir.join("hello.sh"), "echo new\n").unwrap();
    let rank = dir.join("other-rank");
    fs::write(&rank, fs::read_to_string(crate::fake_rank()).unwrap().replace("2.11.0", "2.12.0")).unwrap();
    fs::set_permissions(&rank, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = home.command(&["experiment", "rerun", &id]);
    let (code, _, stderr) = process::end(command.env("NEVA_RANK", &rank).spawn().unwrap());
    assert_eq!(code, 0, "{stderr}");
    let shown: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("differs: ")).collect();
    let [version, build, changed, data, script] = shown.as_slice() else {
        panic!("{stderr}")
    };
    assert_eq!(
        *version,
        "the rank program was 0.1.0 with libtorch 2.11.0, and is 0.1.0 with 2.12.0"
    );
    assert!(build.starts_with("the rank program is a different build: it was "), "{build}");
    assert_eq!(*changed, "the uncommitted changes in the working directory are different");
    assert_eq!(
        *data,
        format!(
            "the data in {} has changed",
            dir.canonicalize().unwrap().join("photos.json").display()
        )
    );
    assert!(script.ends_with("has changed; the recorded text runs"), "{script}");
    // The recorded text ran.
    let third = home.folder("again").unwrap();
    assert_eq!(fs::read_to_string(third.join("tasks/hello/logs/rank0.log")).unwrap(), "old\n");
    // The changes are recorded, too.
    let diff = fs::read_to_string(third.join("git.diff")).unwrap();
    assert!(diff.contains("-echo old") && diff.contains("+echo new"), "{diff}");
}

#[test]
fn two_experiments_or_tasks_are_compared() {
    let home = Home::new();
    home.done(&["neva_tiny", "--sweep", "finetune.optim.lr=1e-3,2e-3"]);
    let folder = home.folder("default").unwrap();
    for (task, loss) in [("lr=1e-3", "1.5"), ("lr=2e-3", "0.5")] {
        let line = format!("{{\"step\": 3, \"reduced_train_loss\": {loss}}}\n");
        fs::write(folder.join("tasks").join(task).join("metrics.jsonl"), line).unwrap();
    }
    let text = home.done(&["experiment", "compare", "default/lr=1e-3", "default/lr=2e-3"]);
    let [lr, metric, _step] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!(lr, "task.finetune.optim.lr: 0.001 -> 0.002");
    assert_eq!(metric, "lr=1e-3 | lr=2e-3  reduced_train_loss  1.5  0.5");
    let result: Value =
        serde_json::from_str(&home.done(&["experiment", "compare", "default/lr=1e-3", "default/lr=2e-3", "--output", "json"])).unwrap();
    assert_eq!(result["differences"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(
        home.done(&["experiment", "compare", "default", "default"])
            .lines()
            .filter(|line| line.contains("->"))
            .count(),
        0
    );
    for (a, b, expect) in [
        ("default", "default/lr=1e-3", "compare a task with a task"),
        ("default/lr", "default/lr=1e-3", "has no task `lr`"),
        ("defalt", "default", "did you mean `default`?"),
    ] {
        let (code, _, stderr) = home.run(&["experiment", "compare", a, b]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains(expect), "{expect}\n{stderr}");
    }
}
