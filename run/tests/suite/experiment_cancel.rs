//! Cancelled experiments: by the program, by a signal, and after the death of their launcher.

use std::fs;

use neva_schemas::exit_class;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    experiment_home::{Home, states, text_of},
    experiment_program::{WAIT, alive, detach, process_of, until_over},
    process::{self, wait_for},
};

#[test]
fn cancel_stops_all_tasks_or_one() {
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
    assert!(stderr.contains("is not running"), "{stderr}");
}

#[test]
fn a_waiting_task_can_be_cancelled() {
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
fn a_second_cancel_kills_even_if_both_arrive_together() {
    let home = Home::new();
    home.scripts("deaf", &[("a", &format!("trap '' TERM; {WAIT} echo $$ > pid; wait_for never"), "")]);
    let id = detach(&home);
    let pid = text_of(&home.path("pid")).trim().parse().unwrap();
    // Like two processes at the same moment.
    let requests = home.folder("deaf").unwrap().join("cancel");
    fs::write(requests, "\n\n").unwrap();
    let status = until_over(&home, &id);
    assert_eq!(states(&status), ["cancelled"]);
    assert!(!alive(pid));
}

#[test]
fn a_cancel_ends_the_pause_between_two_attempts() {
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
fn a_signal_to_the_launcher_stops_the_experiment() {
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
fn tasks_of_a_killed_launcher_can_be_cancelled() {
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
fn an_experiment_with_a_running_script_is_not_removed() {
    let home = Home::new();
    home.scripts("left", &[("a", &format!("{WAIT} echo $$ > pid; wait_for never"), "")]);
    let mut launcher = home.spawn(&["exp.yaml"]);
    let orphan = process_of(&home, "left", "a", "pid");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let folder = home.folder("left").unwrap();
    let (code, _, stderr) = home.run(&["experiment", "remove", "left", "--yes"]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stderr.contains("the task `a`") && stderr.contains("is still running"), "{stderr}");
    assert!(stderr.contains("neva-run experiment cancel left"), "{stderr}");
    assert!(alive(orphan) && folder.join("experiment.json").is_file());
    home.done(&["experiment", "cancel", "left"]);
    home.done(&["experiment", "remove", "left", "--yes"]);
    assert!(!folder.exists());
}
