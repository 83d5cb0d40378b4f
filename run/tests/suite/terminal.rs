//! What a terminal would obey, out of a file, an argument or a record: quoted as an escape, exact for programs.

use std::fs;

use neva_run::config::visible;

use crate::process::Program;

/// Sets a window's title, turns text red, goes back to the start of the line, and turns the direction of what follows.
const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[31m\r\u{9b}\u{202e}";

/// What `arguments` say of `file`, which holds `text`.
fn told(arguments: &[&str], file: &str, text: &str) -> (i32, String, String) {
    let program = Program::new("", arguments).env(&[("NO_COLOR", "1"), ("NEVA_RUN_HOME", "home")]);
    fs::write(program.dir.path().join(file), text).unwrap();
    let (code, stdout, stderr, _dir) = program.run();
    for said in [&stdout, &stderr] {
        assert_eq!(visible(said), said.as_str(), "{arguments:?}");
    }
    (code, stdout, stderr)
}

#[test]
fn a_key_and_a_value_are_quoted_with_escapes_and_underlined_where_they_stand() {
    let text = "_factory_: neva_tiny\nfinetune:\n  optim: {\"\u{202e}\\e]0;title\\a\": 1, lr: \"\u{202e}\\e]0;title\\a\"}\n";
    let (code, _, stderr) = told(&["bad.yaml", "--dry-run"], "bad.yaml", text);
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
fn what_stands_raw_in_a_file_is_quoted_with_escapes() {
    let text = "_factory_: neva_tiny\nname: a # \u{1b}]0;title\u{7}\nfinetune: {optim: {lr: \u{1b}]0;title\u{7}}}\n";
    let (code, _, stderr) = told(&["bad.yaml", "--dry-run"], "bad.yaml", text);
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
fn arguments_are_quoted_with_escapes() {
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
        let (code, stdout, stderr) = told(arguments, "unused", "");
        // Long lines are broken, and a name is cut after 60 characters.
        let said: String = (stdout + &stderr).split_whitespace().collect();
        assert!(code == 2 && said.contains(quoted), "{arguments:?}: {code}: {said}");
    }
}

#[test]
fn programs_get_the_exact_value() {
    let name = format!("a{HOSTILE}\"b");
    let text = format!(
        "_factory_: neva_tiny\nfinetune: {{log: {{name: {}}}}}\n",
        serde_json::to_string(&name).unwrap()
    );
    let text = visible(&text).into_owned();
    let (_, json, _) = told(&["show", "good.yaml", "--output", "json"], "good.yaml", &text);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["finetune"]["log"]["name"], name.as_str());

    for (to, file) in [("--to-yaml", "good.yaml"), ("--to-json", "good.json"), ("--to-toml", "good.toml")] {
        let (code, exported, stderr) = told(&["good.yaml", to, "-"], "good.yaml", &text);
        assert_eq!(code, 0, "{stderr}");
        let (_, json, stderr) = told(&["show", file, "--output", "json"], file, &exported);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(json["finetune"]["log"]["name"], name.as_str(), "{to}");
    }
}

#[test]
fn records_of_experiments_are_told_with_escapes_and_logs_as_they_are() {
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
    let again = |arguments: &[&str]| {
        let home = dir.path().join("home").display().to_string();
        let (_, stdout, stderr, _dir) = Program::new("", arguments).env(&[("NEVA_RUN_HOME", &home)]).run();
        stdout + &stderr
    };
    assert_eq!(again(&["experiment", "logs", "odd"]), "\u{1b}[31mred\n");

    // A record that somebody wrote into.
    let record = folder.path().join("experiment.json");
    let text = fs::read_to_string(&record).unwrap();
    let field = "\"version\": \"";
    assert!(text.contains(field), "{text}");
    fs::write(&record, text.replace(field, "\"version\": \"\\u001b]0;title\\u0007")).unwrap();
    let status = again(&["experiment", "status", "odd"]);
    assert!(
        status.contains("neva-run \\u001b]0;title\\u0007") && visible(&status) == status,
        "{status:?}"
    );
}
