//! `neva-run data`: signals, exit codes and the formats of its output.

use std::{fs, path::Path};

use neva_schemas::exit_class;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    preflight::RECIPE,
    process::{Program, end, reset_signals, wait_for},
};

fn record(n: usize) -> Value {
    json!({"id": n, "conversations": [
        {"from": "human", "value": format!("What is {n}?")}, {"from": "gpt", "value": "A number."}
    ]})
}

/// A program in a folder with a recipe and `records`, whose cache is in the folder.
fn program(records: usize, arguments: &[&str]) -> Program {
    let program = Program::new("", arguments);
    let dir = program.dir.path().to_owned();
    fs::write(dir.join("mine.yaml"), RECIPE).unwrap();
    let records: Vec<Value> = (0..records).map(record).collect();
    fs::write(dir.join("data.json"), Value::from(records).to_string()).unwrap();
    let cache = dir.join("cache").display().to_string();
    program.env(&[("XDG_CACHE_HOME", cache.as_str())])
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_signal_stops_a_check_before_it_writes_anything() {
    reset_signals();
    for signal in [Signal::INT, Signal::TERM] {
        let mut program = program(
            60_000,
            &["data", "check", "mine.yaml", "--workers", "1", "--skip-list", "skip.jsonl"],
        );
        let child = program.spawn();
        let checks = program.dir.path().join("cache/neva-run/checks");
        // The folder of the result exists while records are checked.
        wait_for("a check", || (entries(&checks) > 0).then_some(()));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let (code, stdout, stderr) = end(child);
        assert_eq!((code, stdout.as_str()), (i32::from(exit_class::JOB), ""), "{stderr}");
        assert!(stderr.contains("the check was stopped after"), "{stderr}");
        assert!(!program.dir.path().join("skip.jsonl").exists());
        assert_eq!(entries(&checks), 0);
    }
}

#[test]
fn errors_in_the_data_are_wrong_input() {
    let broken = |program: &Program| {
        let data = json!([record(0), {"conversations": []}]);
        fs::write(program.dir.path().join("data.json"), data.to_string()).unwrap();
    };
    let checked = program(3, &["data", "check", "mine.yaml"]);
    let (code, stdout, stderr, _dir) = checked.run();
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.ends_with("ok: no problem was found\n"), "{stdout}");

    let checked = program(0, &["data", "check", "mine.yaml"]);
    broken(&checked);
    let (code, stdout, stderr, _dir) = checked.run();
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stdout.contains("data.json: record 1, conversations: is empty"), "{stdout}");
    assert!(
        stderr.contains("the data has 1 error") && stderr.contains("--skip-list FILE"),
        "{stderr}"
    );

    let checked = program(0, &["data", "check", "mine.yaml", "--output", "json", "--skip-list", "skip.jsonl"]);
    broken(&checked);
    let (code, stdout, stderr, dir) = checked.run();
    assert_eq!((code, stderr.as_str()), (i32::from(exit_class::INPUT), ""));
    // One document, without a second one for the error.
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&document["errors"], &document["skipped"], &document["skip_list"]),
        (&json!(1), &json!(1), &json!("skip.jsonl"))
    );
    assert_eq!(document["problems"][0]["first"][0]["record"], json!(1));
    // With the list, the data can be trained on, and a check agrees.
    let list = fs::read(dir.path().join("skip.jsonl")).unwrap();
    for command in [&["mine.yaml"][..], &["data", "check", "mine.yaml"]] {
        for (records, code) in [(true, 0), (false, i32::from(exit_class::INPUT))] {
            let set = ["--set", "finetune.data.skip_list=skip.jsonl"];
            let listed = program(0, &command.iter().copied().chain(set).collect::<Vec<_>>());
            broken(&listed);
            let list = if records { list.clone() } else { b"{}".to_vec() };
            fs::write(listed.dir.path().join("skip.jsonl"), list).unwrap();
            let (found, stdout, stderr, _dir) = listed.run();
            assert_eq!(found, code, "{command:?}: {stdout}{stderr}");
        }
    }
}

#[test]
fn samples_have_no_colours_outside_of_a_terminal() {
    let (code, stdout, stderr, _dir) = program(3, &["data", "inspect", "mine.yaml"]).run();
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(!stdout.contains('\u{1b}') && stdout.contains("A number.</s>+}"), "{stdout}");
    let (_, stdout, _, _dir) = program(3, &["data", "inspect", "mine.yaml", "--record", "1", "--output", "json"]).run();
    let document: Value = serde_json::from_str(&stdout).unwrap();
    let pieces = document["samples"][0]["pieces"].as_array().unwrap();
    assert!(pieces.iter().any(|piece| piece["is_label"] == json!(true)));
}
