//! Control characters from files, arguments and records: escaped for people, exact for programs.

use std::fs;

use neva_run::config::visible;

use crate::process::Program;

/// Sets a window's title, turns text red, returns to the start of the line, and reverses the text direction.
const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[31m\r\u{9b}\u{202e}";

/// Runs `neva-run` with a `file` that holds `text`, and checks that its output has no control characters.
fn output(arguments: &[&str], file: &str, text: &str) -> (i32, String, String) {
    let program = Program::new("", arguments).env(&[("NO_COLOR", "1"), ("NEVA_RUN_HOME", "home")]);
    fs::write(program.dir.path().join(file), text).unwrap();
    let (code, stdout, stderr, _dir) = program.run();
    for text in [&stdout, &stderr] {
        assert_eq!(visible(text), text.as_str(), "{arguments:?}");
    }
    (code, stdout, stderr)
}

#[test]
fn keys_and_values_are_escaped_and_underlined() {
    let text = "_factory_: neva_tiny\nfinetune:\n  optim: {\"\u{202e}\\e]0;title\\a\": 1, lr: \"\u{202e}\\e]0;title\\a\"}\n";
    let (code, _, stderr) = output(&["bad.yaml", "--dry-run"], "bad.yaml", text);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r#"
     × `finetune.optim.lr`: expected a number, found the text "\u202e\u001b]0;title\u0007"
      ╭─[bad.yaml:3:37]
    2 │ finetune:
    3 │   optim: {"\u202e\e]0;title\a": 1, lr: "\u202e\e]0;title\a"}
      ·                                        ──────────┬─────────
      ·                                                  ╰── expected a number
      ╰────

     × `finetune.optim."\u202e\u001b]0;title\u0007"`: unknown field `\u202e\u001b]0;title\u0007`
      ╭─[bad.yaml:3:11]
    2 │ finetune:
    3 │   optim: {"\u202e\e]0;title\a": 1, lr: "\u202e\e]0;title\a"}
      ·           ──────────┬─────────
      ·                     ╰── unknown field
      ╰────
     help: the fields here are `lr`, `weight_decay`, `betas`, `eps`, `clip_grad`, `mm_projector_lr`,
           `param_groups`, `lr_scheduler`
    "#);
}

#[test]
fn raw_characters_of_a_file_are_escaped() {
    let text = "_factory_: neva_tiny\nname: a # \u{1b}]0;title\u{7}\nfinetune: {optim: {lr: \u{1b}]0;title\u{7}}}\n";
    let (code, _, stderr) = output(&["bad.yaml", "--dry-run"], "bad.yaml", text);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r#"
     × unexpected character: `\u{1b}'
      ╭─[bad.yaml:2:11]
    1 │ _factory_: neva_tiny
    2 │ name: a # \u001b]0;title\u0007
      ·           ───┬──
      ·              ╰── here
    3 │ finetune: {optim: {lr: \u001b]0;title\u0007}}
      ╰────
    "#);
}

#[test]
fn arguments_are_escaped() {
    let quoted = "\\u001b]0;title\\u0007\\u001b[31m\\r\\u009b\\u202e";
    let set = format!("finetune.optim.lr={HOSTILE}");
    let flag = format!("--{HOSTILE}");
    let file = format!("./{HOSTILE}.yaml");
    for arguments in [
        &[HOSTILE][..],
        &[HOSTILE, "--origins"],
        &[&file],
        &["neva_tiny", "--set", &set],
        &["neva_tiny", &flag],
        &["neva_tiny", "--output", HOSTILE],
        &["neva_tiny", "--executor", HOSTILE],
        &["validate", &file],
        &["plot", &file],
        &["recipes", "copy", HOSTILE],
        &["experiment", "status", HOSTILE],
        &["experiment", HOSTILE],
    ] {
        let (code, stdout, stderr) = output(arguments, "unused", "");
        // Long lines are wrapped, and a name is truncated after 60 characters.
        let text: String = (stdout + &stderr).split_whitespace().collect();
        assert!(code == 2 && text.contains(quoted), "{arguments:?}: {code}: {text}");
    }
}

#[test]
fn programs_get_the_exact_value() {
    let name = format!("a{HOSTILE}\"b");
    let text = format!(
        "_factory_: neva_tiny\nfinetune: {{log: {{log_dir: {}}}}}\n",
        serde_json::to_string(&name).unwrap()
    );
    let text = visible(&text).into_owned();
    let (_, json, _) = output(&["show", "good.yaml", "--output", "json"], "good.yaml", &text);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["finetune"]["log"]["log_dir"], name.as_str());

    for (to, file) in [("--to-yaml", "good.yaml"), ("--to-json", "good.json"), ("--to-toml", "good.toml")] {
        let (code, exported, stderr) = output(&["good.yaml", to, "-"], "good.yaml", &text);
        assert_eq!(code, 0, "{stderr}");
        let (_, json, stderr) = output(&["show", file, "--output", "json"], file, &exported);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(json["finetune"]["log"]["log_dir"], name.as_str(), "{to}");
    }
}

#[test]
fn records_of_experiments_are_escaped_and_logs_are_unchanged() {
    let script = r#"
name: odd
tasks:
  t: {task: {_target_: run.Script, inline: 'printf "\033[31mred\n"'}}
"#;
    let program = Program::new("", &["odd.yaml", "--quiet"]).env(&[("NEVA_RUN_HOME", "home")]);
    fs::write(program.dir.path().join("odd.yaml"), script).unwrap();
    let (_, _, stderr, dir) = program.run();
    let experiments = dir.path().join("home/experiments/odd");
    let folder = fs::read_dir(&experiments)
        .unwrap()
        .next()
        .unwrap_or_else(|| panic!("{stderr}"))
        .unwrap();
    let output = |arguments: &[&str]| {
        let home = dir.path().join("home").display().to_string();
        let (_, stdout, stderr, _dir) = Program::new("", arguments).env(&[("NEVA_RUN_HOME", &home)]).run();
        stdout + &stderr
    };
    assert_eq!(output(&["experiment", "logs", "odd"]), "\u{1b}[31mred\n");

    // A record that was modified.
    let record = folder.path().join("experiment.json");
    let text = fs::read_to_string(&record).unwrap();
    let field = "\"version\": \"";
    assert!(text.contains(field), "{text}");
    fs::write(&record, text.replace(field, "\"version\": \"\\u001b]0;title\\u0007")).unwrap();
    let status = output(&["experiment", "status", "odd"]);
    assert!(
        status.contains("neva-run \\u001b]0;title\\u0007") && visible(&status) == status,
        "{status:?}"
    );
}
