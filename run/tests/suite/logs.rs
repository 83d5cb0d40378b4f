//! The launcher's own log: its format, and its levels by target.

use std::{collections::BTreeSet, fs};

use neva_schemas::exit_class;
use serde_json::Value;

use crate::process::Program;

/// Runs `neva_tiny` in a workspace, so that two modules of the launcher log. Returns exit code and standard error.
fn run(arguments: &[&str], filter: Option<&str>) -> (i32, String) {
    let arguments = [&["run", "neva_tiny"], arguments].concat();
    let mut program = Program::new("", &arguments).without(&["NEVA_LOG"]);
    fs::write(program.dir.path().join("neva.yaml"), "{}\n").unwrap();
    if let Some(filter) = filter {
        program = program.env(&[("NEVA_LOG", filter)]);
    }
    let (code, _, stderr, _dir) = program.run();
    (code, stderr)
}

#[test]
fn with_json_every_line_of_the_log_is_an_object() {
    let (code, stderr) = run(&["--log-format", "json", "-v"], None);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<Value> = stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let messages: BTreeSet<_> = lines.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    assert!(messages.contains("workspace") && messages.contains("submitted"), "{stderr}");
    for line in &lines {
        assert_eq!(line["level"], "INFO", "{line}");
        assert!(line["target"].as_str().unwrap().starts_with("neva_"), "{line}");
        assert!(line["timestamp"].is_string(), "{line}");
    }
    let submitted = lines.iter().find(|line| line["fields"]["message"] == "submitted").unwrap();
    assert_eq!(submitted["fields"]["attempt"], 1, "values are fields: {submitted}");
    assert!(submitted["fields"]["job"].as_str().unwrap().starts_with("local://"), "{submitted}");
}

#[test]
fn levels_are_set_by_target() {
    // The filter, and the targets that log with it.
    let cases: [(Option<&str>, &[&str]); 6] = [
        (None, &[]),
        (Some("warn"), &[]),
        (Some("warn,neva_run::job=info"), &["neva_run::job"]),
        (Some("info,neva_run::job=warn"), &["neva_run::cli"]),
        (Some("neva_run=info"), &["neva_run::cli", "neva_run::job"]),
        (Some("neva_run::cli=debug,neva_run::job=off"), &["neva_run::cli"]),
    ];
    for (filter, targets) in cases {
        let (code, stderr) = run(&["--log-format", "json"], filter);
        assert_eq!(code, 0, "{stderr}");
        let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found: BTreeSet<_> = lines.map(|line| line["target"].as_str().unwrap().to_owned()).collect();
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            targets,
            "{filter:?}: {stderr}"
        );
        // The other format has the same lines. How many states of a short job are seen depends on the machine.
        let (_, text) = run(&[], filter);
        let count = |text: &str| text.lines().filter(|line| !line.contains("job status")).count();
        assert_eq!(count(&text), count(&stderr), "{filter:?}: {text}");
        assert!(
            targets.iter().all(|target| text.contains(&format!("INFO {target}: "))),
            "{filter:?}: {text}"
        );
    }
}

#[test]
fn an_invalid_filter_is_refused() {
    let (code, stderr) = run(&[], Some("neva_run=loud"));
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stderr.contains("NEVA_LOG") && stderr.contains("neva_run=loud"), "{stderr}");
}
