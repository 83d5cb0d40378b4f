//! Experiments through the program: started, detached, followed, and started from within each other.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use neva_schemas::exit_class;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::{
    experiment_home::{Home, states, text_of},
    process::{self, wait_for},
};

/// Shell function for scripts: `wait_for FILE` waits until the file exists.
pub(crate) const WAIT: &str = r#"wait_for() { while [ ! -e "$1" ]; do read -rt 0.01 <> <(:) || :; done; }; "#;

/// Waits until the file `name` holds the process id of `task` and its submission is recorded.
pub(crate) fn process_of(home: &Home, experiment: &str, task: &str, name: &str) -> i32 {
    let pid = text_of(&home.path(name)).trim().parse().unwrap();
    let submitted = format!("\"task\":\"{task}\",\"change\":{{\"submitted\"");
    let events = home.folder(experiment).unwrap().join("events.jsonl");
    wait_for("the submission in the timeline", || {
        fs::read_to_string(&events).ok().filter(|text| text.contains(&submitted))
    });
    pid
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// `--require` holds for each fine-tune of an experiment, also for those of a sweep; one without fine-tunes is refused.
#[test]
fn requirements_hold_for_each_fine_tune() {
    let home = Home::new();
    let text = "name: two\ntasks:\n  print: {task: {_target_: run.Script, inline: \"true\"}}\n  \"a.b\": {task: {_factory_: neva_tiny}}\n  \
                many: {task: {_factory_: neva_tiny}, sweep: {over: {finetune.optim.lr: [1e-3, 1e-4]}}}\n";
    fs::write(home.path("exp.yaml"), text).unwrap();
    let (code, _, stderr) = home.run(&["exp.yaml", "--require", "fp8>=0.95,packing"]);
    assert_eq!(code, 0, "{stderr}");
    let tasks = home.folder("two").unwrap().join("tasks");
    for task in ["a.b", "many-lr=1e-3", "many-lr=1e-4"] {
        let plan: Value = serde_json::from_str(&text_of(&tasks.join(task).join("plan.json"))).unwrap();
        let require = &plan["run"]["finetune"]["trainer"]["require"];
        assert_eq!(*require, serde_json::json!(["fp8>=0.95", "packing"]), "{task}");
    }
    home.scripts("none", &[("a", "true", "")]);
    let (code, _, stderr) = home.run(&["exp.yaml", "--require", "packing"]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stderr.contains("`--require` holds for fine-tunes"), "{stderr}");
}

#[test]
fn a_failed_task_fails_the_run_and_skips_its_dependents() {
    let home = Home::new();
    home.scripts(
        "failing",
        &[
            ("a", "echo no luck >&2; exit 3", ""),
            ("b", "touch b-ran", ", depends_on: [a]"),
            ("c", "touch c-ran", ", depends_on: ['afterany:a']"),
        ],
    );
    let (code, stdout, stderr) = home.run(&["exp.yaml"]);
    assert_eq!((code, stdout.as_str()), (exit_class::JOB.into(), ""), "{stderr}");
    for line in [
        "a: failed: it ended with exit code 3",
        "b: skipped: `a` failed",
        "c: succeeded",
        "the task `a` failed",
    ] {
        assert!(stderr.contains(line), "{line}\n{stderr}");
    }
    assert!(!home.path("b-ran").exists() && home.path("c-ran").exists());
    assert_eq!(states(&home.status("failing")), ["failed", "skipped", "succeeded"]);
}

#[test]
fn the_exit_code_is_that_of_the_first_failure() {
    for (text, class) in [
        ("true", exit_class::DONE),
        ("exit 2", exit_class::JOB),
        ("kill -9 $$", exit_class::JOB),
        ("no-such-program-anywhere", exit_class::CLUSTER),
    ] {
        let home = Home::new();
        home.scripts("class", &[("a", text, "")]);
        let (code, stdout, _) = home.run(&["exp.yaml", "--output", "json"]);
        assert_eq!(code, i32::from(class), "{text}: {stdout}");
        let result: Value = serde_json::from_str(&stdout).unwrap();
        if class != exit_class::DONE {
            assert_eq!(
                (&result["error"]["class"], result["error"]["failure"]["tasks"][0]["name"].as_str()),
                (&class.into(), Some("a"))
            );
        }
    }
    for (behaviour, class) in [
        ("fails 9 2", exit_class::INPUT),
        ("fails 9 3", exit_class::CLUSTER),
        ("fails 9 4", exit_class::BUG),
    ] {
        let home = Home::new();
        fs::write(home.path("exp.yaml"), "tasks: {train: {task: {_factory_: neva_tiny}}}\n").unwrap();
        let child = home.command(&["exp.yaml"]).env("FAKE_RANK", behaviour).spawn().unwrap();
        let (code, _, stderr) = process::end(child);
        assert_eq!(code, i32::from(class), "{behaviour}: {stderr}");
        assert!(
            stderr.contains("the task `train` failed: rank 0 failed in step 3: try 1"),
            "{stderr}"
        );
    }
}

#[test]
fn one_launcher_starts_all_tasks_and_its_program_is_not_executed_again() {
    let home = Home::new();
    let names: Vec<_> = (0..20).map(|number| format!("t{number}")).collect();
    let text = r#"echo "$PPID $(tr '\0' ' ' < /proc/$$/cmdline)""#;
    let tasks: Vec<_> = names.iter().map(|name| (name.as_str(), text, "")).collect();
    home.scripts("many", &tasks);
    let child = home.spawn(&["exp.yaml"]);
    let launcher = child.id();
    let (code, _, stderr) = process::end(child);
    assert_eq!(code, 0, "{stderr}");
    let folder = home.folder("many").unwrap();
    for name in names {
        let log = fs::read_to_string(folder.join("tasks").join(&name).join("logs/rank0.log")).unwrap();
        let script = folder.join("tasks").join(&name).join("script");
        assert_eq!(log.trim_end(), format!("{launcher} bash {}", script.display()));
    }
}

#[test]
fn an_experiment_that_starts_itself_ends() {
    let home = Home::new();
    home.scripts("self", &[("again", r#"echo x >> depth; "$NEVA_RUN" exp.yaml"#, "")]);
    let (code, _, stderr) = home.run(&["exp.yaml"]);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert_eq!(fs::read_to_string(home.path("depth")).unwrap().lines().count(), 4);
    let logs: String = fs::read_dir(home.path("home/experiments/self"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path().join("tasks/again/logs/rank0.log")).unwrap())
        .collect();
    assert!(logs.contains("would be 5 levels deep"), "{logs}");
}

#[test]
fn a_detached_experiment_survives_its_terminal() {
    let home = Home::new();
    home.scripts("far", &[("a", &format!("{WAIT} echo waiting; wait_for go; echo went"), "")]);
    // A shell that keeps running, like that of a terminal, with the program in its process group.
    let script = format!("'{}' exp.yaml --detach; read -r line", env!("CARGO_BIN_EXE_neva-run"));
    let command = home.command(&[]);
    let mut terminal = Command::new("sh");
    terminal.arg("-c").arg(script).current_dir(home.dir.path()).process_group(0);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let id = first.strip_prefix("started ").unwrap_or_else(|| panic!("{first}")).to_owned();

    let status = home.status(&id);
    assert_eq!((&status["state"], &status["alive"]), (&"running".into(), &true.into()));
    let log = home.folder("far").unwrap().join("tasks/a/logs/rank0.log");
    assert_eq!(text_of(&log), "waiting\n");
    kill_process_group(Pid::from_child(&terminal), Signal::HUP).unwrap();
    assert!(!terminal.wait().unwrap().success());

    // From any later process.
    let follower = home.spawn(&["experiment", "logs", &id, "-f"]);
    assert_eq!(home.status(&id)["state"], "running");
    fs::write(home.path("go"), "").unwrap();
    let (code, stdout, stderr) = process::end(follower);
    assert_eq!((code, stdout.as_str()), (0, "waiting\nwent\n"), "{stderr}");
    wait_for("the launcher's end", || (home.status(&id)["alive"] == false).then_some(()));
    assert_eq!(home.status(&id)["state"], "succeeded");
}

#[test]
fn logs_name_their_tasks() {
    let home = Home::new();
    home.scripts(
        "two",
        &[
            ("a", "echo one", ""),
            ("b", "echo two; exit 1", ", depends_on: [a]"),
            ("c", "true", ", depends_on: [b]"),
        ],
    );
    home.run(&["exp.yaml"]);
    assert_eq!(home.done(&["experiment", "logs", "two"]), "==> a <==\none\n\n==> b <==\ntwo\n");
    assert_eq!(home.done(&["experiment", "logs", "two", "b"]), "two\n");
    assert_eq!(home.done(&["experiment", "logs", "two", "c"]), "");
    let result: Value = serde_json::from_str(&home.done(&["experiment", "logs", "two", "--output", "json"])).unwrap();
    assert_eq!(result, serde_json::json!({ "a": "one\n", "b": "two\n" }));
}

#[test]
fn tail_prefixes_output_with_the_names_of_tasks() {
    let home = Home::new();
    home.scripts(
        "tail",
        &[("a", "printf 'one\\ntwo'; echo", ""), ("b", "echo three", ", depends_on: [a]")],
    );
    let stdout = home.done(&["exp.yaml", "--tail", "--quiet"]);
    assert!(stdout.starts_with("a | one\na | two\nb | three\n  a"), "{stdout}");
    let (_, stdout, stderr) = home.run(&["experiment", "rerun", "tail", "--tail", "--output", "json"]);
    assert_eq!(states(&serde_json::from_str(&stdout).unwrap()), ["succeeded", "succeeded"]);
    assert!(stderr.contains("a | one\na | two\n") && stderr.contains("b | three\n"), "{stderr}");
}

/// Starts `exp.yaml` detached and returns its id.
pub(crate) fn detach(home: &Home) -> String {
    let result: Value = serde_json::from_str(&home.done(&["exp.yaml", "--detach", "--output", "json"])).unwrap();
    result["id"].as_str().unwrap().to_owned()
}

pub(crate) fn until_over(home: &Home, id: &str) -> Value {
    wait_for("the end", || Some(home.status(id)).filter(|status| status["alive"] == false))
}

#[test]
fn a_single_run_may_be_detached() {
    let home = Home::new();
    let result: Value = serde_json::from_str(&home.done(&["neva_tiny", "--detach", "--output", "json"])).unwrap();
    let status = until_over(&home, result["id"].as_str().unwrap());
    assert_eq!(
        (states(&status), status["tasks"][0]["name"].as_str()),
        (vec!["succeeded".to_owned()], Some("train"))
    );
    assert!(Path::new(result["dir"].as_str().unwrap()).join("tasks/train/plan.json").is_file());
}

/// Like that of a single run.
#[test]
fn a_dry_run_of_an_experiment_needs_no_rank_program() {
    let sweep = ["neva_tiny", "--sweep", "finetune.optim.lr=1e-4,2e-4"];
    for (more, class) in [(&["--dry-run"][..], exit_class::DONE), (&[], exit_class::CLUSTER)] {
        let nowhere = [("NEVA_RANK", "/nowhere/neva-rank"), ("NEVA_RUN_HOME", "home")];
        let program = process::Program::new("", &[&sweep[..], more].concat()).env(&nowhere);
        let (code, stdout, stderr, dir) = program.run();
        assert_eq!(code, i32::from(class), "{stderr}");
        assert_eq!(stdout.matches("neva-rank train --plan").count(), 2 * more.len(), "{stdout}");
        assert!(!dir.path().join("home").exists());
    }
}
