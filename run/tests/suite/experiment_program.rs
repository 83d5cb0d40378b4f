//! Experiments through the program: started, left to themselves, asked after, ended, killed and gone on with.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use neva_schemas::exit_class;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::{
    experiment_home::{Home, states, text_of},
    process::{self, wait_for},
};

/// For scripts: `wait_for FILE` waits until the file is there.
const WAIT: &str = r#"wait_for() { while [ ! -e "$1" ]; do read -rt 0.01 <> <(:) || :; done; }; "#;

/// Waits until the file `name` holds the number of the process of `task`, and the store knows that it runs.
fn process_of(home: &Home, experiment: &str, task: &str, name: &str) -> i32 {
    let pid = text_of(&home.path(name)).trim().parse().unwrap();
    let submitted = format!("\"task\":\"{task}\",\"change\":{{\"submitted\"");
    let events = home.folder(experiment).unwrap().join("events.jsonl");
    wait_for("the launcher's word", || {
        fs::read_to_string(&events).ok().filter(|text| text.contains(&submitted))
    });
    pid
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_failed_task_fails_the_run_and_blocks_what_waits_for_it() {
    let home = Home::new();
    home.scripts(
        "gate",
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
    assert_eq!(states(&home.status("gate")), ["failed", "skipped", "succeeded"]);
}

#[test]
fn the_exit_code_is_the_class_of_the_first_failure() {
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
        let told: Value = serde_json::from_str(&stdout).unwrap();
        if class != exit_class::DONE {
            assert_eq!(
                (&told["error"]["class"], told["error"]["failure"]["tasks"][0]["name"].as_str()),
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
fn tasks_are_started_by_one_launcher_whose_program_is_not_run_again() {
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
fn an_experiment_that_starts_itself_comes_to_an_end() {
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
    // A shell that stays, as that of a terminal does, with the program in its process group.
    let script = format!("'{}' exp.yaml --detach; read -r line", env!("CARGO_BIN_EXE_neva-run"));
    let command = home.command(&[]);
    let mut terminal = Command::new("sh");
    terminal.arg("-c").arg(script).current_dir(home.dir.path()).process_group(0);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
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
fn logs_tell_whose_they_are() {
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
    let told: Value = serde_json::from_str(&home.done(&["experiment", "logs", "two", "--output", "json"])).unwrap();
    assert_eq!(told, serde_json::json!({ "a": "one\n", "b": "two\n" }));
}

#[test]
fn tail_shows_output_behind_the_names_of_tasks() {
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

/// Starts `exp.yaml` detached, and gives its id.
fn detach(home: &Home) -> String {
    let told: Value = serde_json::from_str(&home.done(&["exp.yaml", "--detach", "--output", "json"])).unwrap();
    told["id"].as_str().unwrap().to_owned()
}

fn until_over(home: &Home, id: &str) -> Value {
    wait_for("the end", || Some(home.status(id)).filter(|status| status["alive"] == false))
}

#[test]
fn cancel_ends_all_tasks_or_one() {
    let forever = format!("{WAIT} echo $$ > \"$NEVA_TASK.pid\"; wait_for never");
    let tasks = [
        ("a", forever.as_str(), ""),
        ("b", forever.as_str(), ""),
        ("c", "true", ", depends_on: [a]"),
        ("d", "true", ", depends_on: ['afterany:b']"),
    ];
    let home = Home::new();
    home.scripts("stop", &tasks);
    let id = detach(&home);
    text_of(&home.path("a.pid"));
    text_of(&home.path("b.pid"));
    home.done(&["experiment", "cancel", &id, "a"]);
    wait_for("the end of a", || (states(&home.status(&id))[0] == "cancelled").then_some(()));
    assert_eq!(states(&home.status(&id)), ["cancelled", "running", "skipped", "pending"]);
    let (code, _, stderr) = home.run(&["experiment", "cancel", &id, "a"]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    home.done(&["experiment", "cancel", &id]);
    let status = until_over(&home, &id);
    assert_eq!(
        (states(&status), &status["class"]),
        (
            vec!["cancelled".into(), "cancelled".into(), "skipped".into(), "cancelled".into()],
            &1.into()
        )
    );
    for name in ["a.pid", "b.pid"] {
        assert!(!alive(text_of(&home.path(name)).trim().parse().unwrap()), "{name}");
    }
    let (code, _, stderr) = home.run(&["experiment", "cancel", &id]);
    assert_eq!(code, i32::from(exit_class::INPUT));
    assert!(stderr.contains("nothing of the experiment"), "{stderr}");
}

#[test]
fn a_task_that_waits_is_taken_off_the_list() {
    let home = Home::new();
    home.scripts(
        "list",
        &[
            ("a", &format!("{WAIT} wait_for go"), ""),
            ("b", "touch b-ran", ", depends_on: [a]"),
            ("c", "touch c-ran", ", depends_on: [a]"),
        ],
    );
    let text = fs::read_to_string(home.path("exp.yaml")).unwrap();
    fs::write(home.path("exp.yaml"), format!("groups: {{pair: [b, c]}}\n{text}")).unwrap();
    let id = detach(&home);
    home.done(&["experiment", "cancel", &id, "b"]);
    wait_for("the end of b", || (states(&home.status(&id))[1] == "cancelled").then_some(()));
    fs::write(home.path("go"), "").unwrap();
    let status = until_over(&home, &id);
    assert_eq!(states(&status), ["succeeded", "cancelled", "skipped"]);
    assert_eq!(status["tasks"][2]["state"]["skipped"], "`b` of its group was cancelled");
    assert!(!home.path("b-ran").exists() && !home.path("c-ran").exists());
}

#[test]
fn a_second_cancel_kills_even_where_both_come_at_once() {
    let home = Home::new();
    home.scripts("deaf", &[("a", &format!("trap '' TERM; {WAIT} echo $$ > pid; wait_for never"), "")]);
    let id = detach(&home);
    let pid = text_of(&home.path("pid")).trim().parse().unwrap();
    // As two processes would, in one moment.
    let requests = home.folder("deaf").unwrap().join("cancel");
    fs::write(requests, "\n\n").unwrap();
    let status = until_over(&home, &id);
    assert_eq!(states(&status), ["cancelled"]);
    assert!(!alive(pid));
}

#[test]
fn a_cancel_in_the_pause_between_two_attempts_is_heard() {
    for whole in [true, false] {
        let home = Home::new();
        home.scripts(
            "pause",
            &[(
                "a",
                "echo x >> tries; exit 1",
                ", executor: {_target_: run.LocalExecutor, retries: 20}",
            )],
        );
        let id = detach(&home);
        let events = home.folder("pause").unwrap().join("events.jsonl");
        // The third pause takes four seconds.
        wait_for("the third pause", || {
            let text = fs::read_to_string(&events).ok()?;
            (text.matches("\"retried\"").count() == 3).then_some(())
        });
        let all = ["experiment", "cancel", &id, "a"];
        home.done(&all[..if whole { 3 } else { 4 }]);
        let status = until_over(&home, &id);
        assert_eq!(
            (states(&status), &status["tasks"][0]["attempts"]),
            (vec!["cancelled".to_owned()], &3.into())
        );
        assert_eq!(fs::read_to_string(home.path("tries")).unwrap().lines().count(), 3);
    }
}

#[test]
fn a_signal_to_the_launcher_ends_the_experiment() {
    let home = Home::new();
    home.scripts(
        "signal",
        &[
            ("a", &format!("{WAIT} echo $$ > pid; wait_for never"), ""),
            ("b", "true", ", depends_on: [a]"),
        ],
    );
    let launcher = home.spawn(&["exp.yaml"]);
    let pid = text_of(&home.path("pid")).trim().parse().unwrap();
    kill_process(Pid::from_child(&launcher), Signal::TERM).unwrap();
    let (code, _, stderr) = process::end(launcher);
    assert_eq!(code, i32::from(exit_class::JOB), "{stderr}");
    assert!(!alive(pid));
    assert_eq!(states(&home.status("signal")), ["cancelled", "cancelled"]);
}

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
    assert!(alive(orphan), "a script outlives a launcher that is killed");

    // The same command starts another one, and says how to go on.
    let (_, _, said) = home.run(&["exp.yaml", "--dry-run"]);
    assert_eq!(said, "", "a dry run starts nothing");
    let resumed = home.spawn(&["experiment", "resume", "killed"]);
    wait_for("the second attempt", || {
        (fs::read_to_string(home.path("pids")).unwrap().lines().count() == 2).then_some(())
    });
    assert!(!alive(orphan), "it would run beside the second attempt");
    fs::write(home.path("go"), "").unwrap();
    let (code, _, stderr) = process::end(resumed);
    assert_eq!(code, 0, "{stderr}");
    for name in ["first-ran", "second-ran", "third-ran"] {
        assert_eq!(fs::read_to_string(home.path(name)).unwrap(), "x\n", "{name}: once");
    }
    assert_eq!(home.status("killed")["state"], "succeeded");
    let (code, _, stderr) = home.run(&["experiment", "resume", "killed"]);
    assert_eq!(code, i32::from(exit_class::INPUT));
    assert!(stderr.contains("ended well already"), "{stderr}");
}

#[test]
fn who_starts_an_interrupted_experiment_anew_is_told_how_to_go_on() {
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
            "note: {id} was interrupted; this starts another one, `neva-run experiment resume {id}` goes on with it\n"
        )),
        "{stderr}"
    );
    home.done(&["experiment", "resume", &id]);
    assert_eq!(home.status(&id)["state"], "succeeded");
}

#[test]
fn what_a_killed_launcher_left_can_be_cancelled() {
    let home = Home::new();
    home.scripts("left", &[("a", &format!("{WAIT} echo $$ > pid; wait_for never"), "")]);
    let mut launcher = home.spawn(&["exp.yaml"]);
    let orphan = process_of(&home, "left", "a", "pid");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    assert!(alive(orphan));
    home.done(&["experiment", "cancel", "left"]);
    assert!(!alive(orphan));
}

#[test]
fn a_launcher_that_runs_is_not_replaced() {
    let home = Home::new();
    home.scripts("one", &[("a", &format!("{WAIT} wait_for go"), "")]);
    let id = detach(&home);
    for verb in [&["experiment", "resume", &id][..], &["experiment", "remove", &id, "--yes"]] {
        let (code, _, stderr) = home.run(verb);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains("is running"), "{stderr}");
    }
    // Whoever only asks is in nobody's way.
    let askers: Vec<_> = (0..4).map(|_| home.spawn(&["experiment", "status", &id])).collect();
    askers.into_iter().for_each(|asker| assert_eq!(process::end(asker).0, 0));
    fs::write(home.path("go"), "").unwrap();
    assert_eq!(until_over(&home, &id)["state"], "succeeded");
}

#[test]
fn a_point_of_a_sweep_that_is_tried_again_goes_on_from_its_own_checkpoint() {
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
        // What the second attempt left is there for the third.
        assert!(dir.join("checkpoints/10/checkpoint.json").is_file());
        assert!(stderr.contains(&format!("{task}: started, attempt 3")), "{stderr}");
        assert_eq!(stderr.matches(&format!("{task}: attempt ")).count(), 2, "{stderr}");
    }
    let status = home.status("default");
    assert_eq!(status["tasks"][1]["report"]["losses"], serde_json::json!([7.5, 0.25]));
    assert_eq!(status["tasks"][1]["attempts"], 3);
}

#[test]
fn a_single_run_may_be_left_to_itself() {
    let home = Home::new();
    let told: Value = serde_json::from_str(&home.done(&["neva_tiny", "--detach", "--output", "json"])).unwrap();
    let status = until_over(&home, told["id"].as_str().unwrap());
    assert_eq!(
        (states(&status), status["tasks"][0]["name"].as_str()),
        (vec!["succeeded".to_owned()], Some("train"))
    );
    assert!(Path::new(told["dir"].as_str().unwrap()).join("tasks/train/plan.json").is_file());
}

#[test]
fn a_repetition_needs_the_store_alone_and_says_what_differs() {
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
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["differences"]), (0, &serde_json::json!([])), "{stderr}");
    let second = home.folder("again").unwrap();
    assert_ne!(first, second);
    let record = |folder: &Path| -> Value { serde_json::from_slice(&fs::read(folder.join("experiment.json")).unwrap()).unwrap() };
    assert_eq!(record(&second)["rerun_of"], id.as_str());
    assert_eq!(record(&second)["experiment"], record(&first)["experiment"]);
    assert_eq!(record(&second)["data"], record(&first)["data"]);

    // Program, data, script and working directory do.
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
    assert_eq!(*version, "the rank program was 0.1.0 on libtorch 2.11.0, and is 0.1.0 on 2.12.0");
    assert!(build.starts_with("the rank program is another build: it was "), "{build}");
    assert_eq!(
        *changed,
        "what is changed in the working directory since its commit is not what it was"
    );
    assert_eq!(
        *data,
        format!(
            "the data in {} has other content",
            dir.canonicalize().unwrap().join("photos.json").display()
        )
    );
    assert!(script.ends_with("has other text; the one that is kept runs"), "{script}");
    // The text that is kept ran.
    let third = home.folder("again").unwrap();
    assert_eq!(fs::read_to_string(third.join("tasks/hello/logs/rank0.log")).unwrap(), "old\n");
    // And what was changed is kept, too.
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
    let told: Value =
        serde_json::from_str(&home.done(&["experiment", "compare", "default/lr=1e-3", "default/lr=2e-3", "--output", "json"])).unwrap();
    assert_eq!(told["differences"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(
        home.done(&["experiment", "compare", "default", "default"])
            .lines()
            .filter(|line| line.contains("->"))
            .count(),
        0
    );
    for (a, b, expect) in [
        ("default", "default/lr=1e-3", "a task is compared with a task"),
        ("default/lr", "default/lr=1e-3", "has no task `lr`"),
        ("defalt", "default", "did you mean `default`?"),
    ] {
        let (code, _, stderr) = home.run(&["experiment", "compare", a, b]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains(expect), "{expect}\n{stderr}");
    }
}
