//! Texts and files that cannot be parsed or read.

use neva_run::config::{self, Source};

use crate::{GOOD, report, with};

#[test]
fn a_key_twice() {
    insta::assert_snapshot!(report(&with("nodes: 2", "name: b"), &[]), @r#"
     × the key `name` is given twice
      ╭─[train.yaml:2:1]
    1 │ name: tune
    2 │ name: b
      · ──┬─
      ·   ╰── here
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn a_tag() {
    insta::assert_snapshot!(report(&with("nodes: 2", "nodes: !int 2"), &[]), @r#"
     × YAML tags are not used: the type of a field decides how its value is read
      ╭─[train.yaml:2:13]
    1 │ name: tune
    2 │ nodes: !int 2
      ·             ┬
      ·             ╰── here
    3 │ optim:
      ╰────
    "#);
}

#[test]
fn an_open_bracket() {
    insta::assert_snapshot!(report(&with("0.95]", "0.95"), &[]), @r#"
     × unclosed bracket '['
      ╭─[train.yaml:6:10]
    5 │   lr: 1e-4
    6 │   betas: [0.9, 0.95
      ·          ┬
      ·          ╰── here
      ╰────
    "#);
}

#[test]
fn wide_characters() {
    insta::assert_snapshot!(report(&with("name: tune\nnodes: 2", "\"näme\": 鳥"), &[]), @r#"
     × `näme`: unknown field `näme`
      ╭─[train.yaml:1:1]
    1 │ "näme": 鳥
      · ───┬──
      ·    ╰── unknown field
    2 │ optim:
      ╰────
     help: did you mean `name`? The fields here are `name`, `nodes`, `precision`, `resume`, `env`,
           `layers`, `optim`
    "#);
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(report("", &[]), @r#"
    × expected a map, found null
     ╭─[train.yaml:1:1]
     ╰────
    help: the fields here are `name`, `nodes`, `precision`, `resume`, `env`, `layers`, `optim`
    "#);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let large = vec![b'#'; (4 << 20) + 1];
    for (path, expect) in [
        (
            folder.path().to_owned(),
            "it is a directory, expected a file, the folder of a run or a checkpoint",
        ),
        (folder.path().join("none.yaml"), "there is no such file"),
        (
            file("latin1.yaml", b"name: a\nname: \xff\n"),
            "it is not UTF-8 text (byte 14, on line 2)",
        ),
        (file("nul.yaml", b"name: a\0b\n"), "this is a NUL byte: the file is not text"),
        (file("large.yaml", &large), "it is larger than 4 MiB, the limit for configurations"),
    ] {
        let error = config::read(&path).unwrap_err();
        assert!(error.to_string().ends_with(expect), "{error}");
    }
    assert!(config::read(&file("good.yaml", GOOD.as_bytes())).is_ok());
    // A file of 100 MB is refused without reading it.
    let huge = folder.path().join("huge.json");
    std::fs::File::create(&huge).and_then(|file| file.set_len(100 << 20)).unwrap();
    assert!(
        config::read(&huge)
            .unwrap_err()
            .to_string()
            .ends_with("it is larger than 4 MiB, the limit for configurations")
    );
}

#[test]
fn json_and_toml_that_cannot_be_read() {
    let report = |name: &str, text: &str| config::render(&config::parse(&Source::new(name, text)).unwrap_err(), false);
    insta::assert_snapshot!(report("a.json", "{\n  \"a\": 1,\n}"), @r#"
     × JSON allows no comma before a closing bracket
      ╭─[a.json:3:1]
    2 │   "a": 1,
    3 │ }
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "{\"a\": {\"b\": 1, \"b\": 2}}"), @r#"
     × the key `b` is given twice
      ╭─[a.json:1:16]
    1 │ {"a": {"b": 1, "b": 2}}
      ·                ─┬─
      ·                 ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "{\"a\": \"\\ud800\"}"), @r#"
     × this string has an escape for an invalid character
      ╭─[a.json:1:7]
    1 │ {"a": "\ud800"}
      ·       ────┬───
      ·           ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", "a: 1"), @r#"
     × a value is missing here; JSON needs double quotes around texts and keys
      ╭─[a.json:1:1]
    1 │ a: 1
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.json", ""), @r#"
    × the text ends too early
     ╭─[a.json:1:1]
     ╰────
    "#);
    insta::assert_snapshot!(report("a.toml", "a = 1\na = 2\n"), @r#"
     × duplicate key
      ╭─[a.toml:2:1]
    1 │ a = 1
    2 │ a = 2
      · ┬
      · ╰── here
      ╰────
    "#);
    insta::assert_snapshot!(report("a.toml", "a: 1"), @r#"
     × key with no value, expected `=`
      ╭─[a.toml:1:4]
    1 │ a: 1
      ·    ▲
      ·    ╰── here
      ╰────
    "#);
}

#[test]
fn inputs_that_would_exhaust_memory_are_refused() {
    let laughs = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |yaml, i| {
        let j = i - 1;
        format!("{yaml}a{i}: &a{i} [*a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}]\n")
    });
    let block = (0..1_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    for (yaml, expect) in [
        (laughs, "too large: at most 64 levels and 100000 values, anchors expanded"),
        (
            "[".repeat(100_000),
            "too large: at most 64 levels and 100000 values, anchors expanded",
        ),
        (block, "too large: at most 64 levels and 100000 values, anchors expanded"),
        (
            format!("[{}]", "1,".repeat(200_000)),
            "too large: at most 64 levels and 100000 values, anchors expanded",
        ),
        ("a: &a [*a]".to_owned(), "this alias refers to a value that contains it"),
    ] {
        let error = config::parse(&Source::new("bomb.yaml", yaml)).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    for (name, text, expect) in [
        (
            "bomb.json",
            "[".repeat(100_000) + &"]".repeat(100_000),
            "too large: at most 64 levels",
        ),
        (
            "bomb.json",
            "{\"a\":".repeat(70) + "1" + &"}".repeat(70),
            "too large: at most 64 levels",
        ),
        (
            "bomb.toml",
            format!("a = {}{}", "[".repeat(70), "]".repeat(70)),
            "too large: at most 64 levels",
        ),
        ("bomb.toml", format!("{}a = 1", "a.".repeat(70)), "too large: at most 64 levels"),
    ] {
        let error = config::parse(&Source::new(name, text)).unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    for text in ["[".repeat(100_000), format!("a = {}", "[".repeat(100_000)), "{a={b=".repeat(50_000)] {
        for name in ["bomb.json", "bomb.toml"] {
            assert!(config::parse(&Source::new(name, text.as_str())).is_err());
        }
    }
    let deep = format!("{}a=1", "a.".repeat(100_000));
    assert_eq!(
        config::Override::parse(&deep).unwrap_err().to_string(),
        "a path has at most 64 segments"
    );
}
