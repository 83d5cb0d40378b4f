//! The store: its contents, concurrent launchers, damaged records, and stores that cannot be written.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use neva_run::Store;
use neva_schemas::exit_class;
use serde_json::Value;

use crate::{
    experiment_home::{Home, states},
    process,
};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_folder_of_an_experiment_is_complete() {
    let home = Home::new();
    fs::write(
        home.path("exp.yaml"),
        "name: all\ntasks:\n  hello: {task: {_target_: run.Script, inline: echo hello}}\n  train: {task: {_factory_: neva_tiny}, depends_on: [hello]}\n",
    )
    .unwrap();
    home.done(&["exp.yaml", "--set", "tasks.train.task.finetune.optim.lr=4e-3"]);
    let folder = home.folder("all").unwrap();
    let record = read(&folder.join("experiment.json"));
    let id = folder.file_name().unwrap().to_str().unwrap();
    assert_eq!((&record["format"], &record["id"]), (&1.into(), &id.into()));
    let train = &record["experiment"]["tasks"]["train"]["task"]["llm.finetune"];
    assert_eq!(
        train["finetune"]["optim"]["AdamW"]["lr"]
            .as_f64()
            .or(train["finetune"]["optim"]["optim.AdamW"]["lr"].as_f64()),
        Some(4e-3),
        "resolved: {train}"
    );
    for (name, what) in [
        ("git.json", "commit"),
        ("programs.json", "rank"),
        ("tasks/train/submission.json", "submission"),
    ] {
        let value = read(&folder.join(name));
        assert_eq!(value["format"], 1, "{name}");
        assert!(value.get(what).is_some(), "{name}: {value}");
    }
    assert!(folder.join("tasks/train/plan.json").is_file() && folder.join("tasks/hello/script").is_file());
    let events = fs::read_to_string(folder.join("events.jsonl")).unwrap();
    let words: Vec<_> = events
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            let word = event["change"].as_object().unwrap().keys().next().unwrap().clone();
            format!("{} {word}", event["task"].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        words,
        [
            "- launched",
            "hello submitted",
            "hello ended",
            "train submitted",
            "train ended",
            "- finished"
        ]
    );
    // No partial file is left.
    let partial = walk(&folder).into_iter().filter(|name| name.ends_with(".partial"));
    assert_eq!(partial.count(), 0);
}

fn walk(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let names = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => walk(&entry.path()),
        false => vec![entry.file_name().into_string().unwrap()],
    });
    names.collect()
}

#[test]
fn twenty_launchers_start_at_once() {
    let home = Home::new();
    home.scripts(
        "crowd",
        &[("a", "echo \"$NEVA_EXPERIMENT_DIR\"", ""), ("b", "true", ", depends_on: [a]")],
    );
    let launchers: Vec<Child> = (0..20).map(|_| home.spawn(&["exp.yaml", "--output", "json"])).collect();
    let mut ids = BTreeSet::new();
    for launcher in launchers {
        let (code, stdout, stderr) = process::end(launcher);
        assert_eq!(code, 0, "{stdout}\n{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(states(&report), ["succeeded", "succeeded"]);
        let dir = report["dir"].as_str().unwrap();
        assert_eq!(
            fs::read_to_string(Path::new(dir).join("tasks/a/logs/rank0.log"))
                .unwrap()
                .trim_end(),
            dir
        );
        ids.insert(report["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 20);
    let rows: Value = serde_json::from_str(&home.done(&["experiment", "list", "--output", "json"])).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>(),
        ids
    );
    assert!(rows.iter().all(|row| row["state"] == "succeeded" && row["tasks"] == 2), "{rows:?}");

    // Concurrent removals, while other experiments start.
    let ends = ids.iter().map(|id| home.spawn(&["experiment", "remove", id, "--yes"]));
    let all: Vec<_> = ends.chain((0..4).map(|_| home.spawn(&["exp.yaml"]))).collect();
    all.into_iter().for_each(|child| {
        let (code, _, stderr) = process::end(child);
        assert_eq!(code, 0, "{stderr}");
    });
    let rows: Value = serde_json::from_str(&home.done(&["experiment", "list", "--output", "json"])).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 4);
}

/// Returns a store with an experiment that succeeded, and its id.
fn stored() -> (Home, String) {
    let home = Home::new();
    home.scripts("kept", &[("a", "echo out", "")]);
    home.done(&["exp.yaml"]);
    let id = home.folder("kept").unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    (home, id)
}

#[test]
fn the_index_is_a_cache() {
    let (home, id) = stored();
    let list = || home.done(&["experiment", "list"]);
    let expect = list();
    assert!(expect.starts_with(&format!("{id}  succeeded  1 task  ")), "{expect}");
    let index = home.path("home/index.jsonl");
    for damage in [
        "",
        "rubbish\n{\"id\": 3}\n\0\u{fffd}",
        "{\"format\": 9, \"id\": \"x\", \"class\": 1}\n",
    ] {
        fs::write(&index, damage).unwrap();
        assert_eq!(list(), expect);
    }
    fs::remove_file(&index).unwrap();
    assert_eq!(list(), expect);
}

#[test]
fn a_damaged_record_is_reported_and_kept() {
    let damages: [(&str, &[u8], &str); 5] = [
        ("experiment.json", b"{\"format\": 1, \"id\"", "is damaged: EOF while parsing"),
        ("experiment.json", b"", "is damaged: EOF while parsing"),
        ("experiment.json", b"\xff\xfe", "is damaged"),
        (
            "experiment.json",
            b"{\"format\": 7}",
            "has format 7, but this program reads format 1",
        ),
        (
            "events.jsonl",
            b"{\"unix_ms\":1,\"change\":{\"launched\":{\"format\":2,\"pid\":1,\"version\":\"9\"}}}\n",
            "has format 2, but this program reads format 1",
        ),
    ];
    for (name, damage, expect) in damages {
        let (home, id) = stored();
        let path = home.folder("kept").unwrap().join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, damage).unwrap();
        for command in ["status", "logs", "rerun", "resume", "cancel"] {
            let (code, _, stderr) = home.run(&["experiment", command, &id]);
            let one_line = stderr.replace("\n  │ ", " ");
            // A rerun reads the record, but not the timeline.
            if command == "rerun" && name == "events.jsonl" {
                assert_eq!(code, 0, "{stderr}");
                continue;
            }
            assert_eq!(code, i32::from(exit_class::CLUSTER), "{command} {expect}: {stderr}");
            assert!(one_line.contains(expect) && one_line.contains(name), "{command} {expect}: {stderr}");
        }
        assert_eq!(fs::read(&path).unwrap(), damage, "the damaged file is kept");
        if name == "experiment.json" {
            fs::remove_file(home.path("home/index.jsonl")).unwrap();
            let list = home.done(&["experiment", "list"]);
            assert!(list.contains(&id) && list.contains("damaged"), "{list}");
        }
        fs::write(&path, whole).unwrap();
        assert_eq!(home.done(&["experiment", "logs", &id]), "out\n");
        fs::write(&path, damage).unwrap();
        home.done(&["experiment", "remove", &id, "--yes"]);
        assert!(!path.exists());
    }
}

#[test]
fn a_damaged_line_of_the_timeline_is_ignored() {
    let (home, id) = stored();
    let path = home.folder("kept").unwrap().join("events.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.insert(2, "\0\0\0");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let (code, stdout, stderr) = home.run(&["experiment", "status", &id]);
    assert_eq!(
        (code, stderr.as_str()),
        (0, "warning: line 3 of events.jsonl is damaged and was ignored\n")
    );
    assert!(stdout.contains("succeeded"), "{stdout}");
    // A killed launcher leaves an incomplete last line. The next event starts a new line.
    fs::write(&path, text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n{\"unix_ms\":17").unwrap();
    let (code, stdout, stderr) = home.run(&["experiment", "status", &id]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("interrupted"), "{stdout}");
    home.done(&["experiment", "resume", &id]);
    let status = home.status(&id);
    assert_eq!(
        (&status["state"], &status["damaged_events"]),
        (&"succeeded".into(), &serde_json::json!([]))
    );
}

#[test]
fn a_home_that_cannot_be_written_is_reported() {
    let home = Home::new();
    home.scripts("ro", &[("a", "touch ran", "")]);
    fs::write(home.path("file"), "").unwrap();
    let file = home.path("file/home");
    // Not even root can create a folder there.
    for place in [file.to_str().unwrap(), "/sys/neva"] {
        let child = home.command(&["exp.yaml"]).env("NEVA_RUN_HOME", place).spawn().unwrap();
        let (code, _, stderr) = process::end(child);
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
        let one_line = stderr.replace("\n  │ ", " ");
        assert!(
            one_line.contains(&format!("cannot create {place}")) && one_line.contains("NEVA_RUN_HOME"),
            "{stderr}"
        );
        let (code, stdout, stderr) = process::end(home.command(&["experiment", "list"]).env("NEVA_RUN_HOME", place).spawn().unwrap());
        assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    }
    assert!(!home.path("ran").exists());
}

#[test]
fn the_home_is_found() {
    let home = Home::new();
    home.scripts("home", &[("a", "true", "")]);
    for (variables, place) in [
        (&[("NEVA_RUN_HOME", "one"), ("NEMORUN_HOME", "two"), ("HOME", "three")][..], "one"),
        (&[("NEMORUN_HOME", "two"), ("HOME", "three")], "two"),
        (&[("NEVA_RUN_HOME", ""), ("HOME", "three")], "three/.neva_run"),
    ] {
        let mut command = home.command(&["exp.yaml"]);
        command
            .env_remove("NEVA_RUN_HOME")
            .env_remove("NEMORUN_HOME")
            .envs(variables.iter().copied());
        let (code, _, stderr) = process::end(command.spawn().unwrap());
        assert_eq!(code, 0, "{stderr}");
        assert!(home.path(place).join("experiments/home").is_dir(), "{place}");
    }
    let mut command = home.command(&["experiment", "list"]);
    for name in ["NEVA_RUN_HOME", "NEMORUN_HOME", "HOME"] {
        command.env_remove(name);
    }
    let (code, _, stderr) = process::end(command.spawn().unwrap());
    assert_eq!(code, i32::from(exit_class::CLUSTER));
    assert!(stderr.contains("set NEVA_RUN_HOME"), "{stderr}");
}

#[test]
fn experiments_are_found_by_id_or_name() {
    let (home, id) = stored();
    home.done(&["exp.yaml"]);
    let latest = home.folder("kept").unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert_ne!(id, latest);
    assert_eq!(home.status(&id)["id"], id.as_str());
    assert_eq!(home.status("kept")["id"], latest.as_str());
    for (requested, expect) in [
        ("kepd", "did you mean `kept`?"),
        ("nothing", "`neva-run experiment list` shows all"),
        ("../kept", ""),
        ("", ""),
        ("..", ""),
    ] {
        for command in ["status", "list"] {
            let (code, _, stderr) = home.run(&["experiment", command, requested]);
            assert_eq!(code, i32::from(exit_class::INPUT), "{command} {requested}: {stderr}");
            assert!(stderr.contains("there is no experiment") && stderr.contains(expect), "{stderr}");
        }
    }
    // From Rust as well.
    let store = Store::new(home.path("home"));
    assert_eq!(store.list(None).unwrap().len(), 2);
    let folder = store.find("kept").unwrap();
    store.remove(&folder).unwrap();
    assert_eq!(store.find("kept").unwrap().id, id);
}

#[test]
fn a_status_query_does_not_block_a_launcher() {
    let home = Home::new();
    home.scripts("queried", &[("a", "exit 1", "")]);
    home.run(&["exp.yaml"]);
    let folder = home.folder("queried").unwrap();
    // A status query holds the lock for a moment.
    let file = fs::File::open(folder.join("launcher.lock")).unwrap();
    file.lock_shared().unwrap();
    let resumed = home.spawn(&["experiment", "resume", "queried"]);
    // Until the launcher has opened the lock file.
    process::wait_for("the launcher", || {
        let held = fs::read_dir(format!("/proc/{}/fd", resumed.id())).ok()?;
        let mut held = held.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        held.any(|path| path.ends_with("launcher.lock")).then_some(())
    });
    // Unlocked explicitly: a forked child of another test may hold the descriptor.
    file.unlock().unwrap();
    let (code, _, stderr) = process::end(resumed);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert!(stderr.contains("the task `a` failed"), "{stderr}");
}

/// Starts the program with a file size limit of `kib`, which stands in for a full disk.
fn limited(home: &Home, kib: u32, arguments: &[&str]) -> Child {
    let inner = home.command(arguments);
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\""));
    shell.arg(inner.get_program()).args(inner.get_args()).current_dir(home.dir.path());
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_record_that_cannot_be_written_leaves_nothing() {
    let home = Home::new();
    fs::write(
        home.path("exp.yaml"),
        "name: full\ntasks:\n  train: {task: {_factory_: neva_tiny}}\n",
    )
    .unwrap();
    let (code, _, stderr) = process::end(limited(&home, 1, &["exp.yaml"]));
    assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
    assert!(stderr.contains("experiment.json") && stderr.contains("File too large"), "{stderr}");
    assert_eq!(home.folder("full"), None);
}

#[test]
fn tasks_keep_running_if_events_cannot_be_written() {
    let home = Home::new();
    // The timeline holds the path of each job, so it grows larger than the record.
    let name = "n".repeat(90);
    let tasks: Vec<_> = (0..30).map(|number| format!("t{number}")).collect();
    let scripts: Vec<_> = tasks.iter().map(|task| (task.as_str(), "touch \"ran-$NEVA_TASK\"", "")).collect();
    home.scripts(&name, &scripts);
    let (code, _, stderr) = process::end(limited(&home, 12, &["exp.yaml"]));
    assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
    assert!(stderr.contains("events.jsonl") && stderr.contains("File too large"), "{stderr}");
    assert!(tasks.iter().all(|task| home.path(&format!("ran-{task}")).exists()));
    let states = |status: &Value| states(status).iter().filter(|state| *state == "succeeded").count();
    let known = states(&home.status(&name));
    assert!((1..30).contains(&known), "{known}");
    home.done(&["experiment", "resume", &name]);
    let status = home.status(&name);
    assert_eq!((states(&status), &status["damaged_events"]), (30, &serde_json::json!([])));
}
