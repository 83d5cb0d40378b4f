//! No text makes the tree panic, and every error can be rendered.

use neva_run::config::{self, Factories, Origin, Path, Source};
use proptest::{collection, prelude::*};

use crate::{
    followed,
    sample::{Kind, Sample},
};

/// Draws text that is nearly YAML, nearly an override, or neither.
pub(crate) fn noise() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        "b",
        ".",
        "[",
        "]",
        "0",
        "9999999999999999999999",
        "=",
        "+=",
        "-=",
        "*=",
        "/=",
        "|=",
        "~",
        "{",
        "}",
        ":",
        ": ",
        ",",
        "\"",
        "'",
        "\\",
        "\n",
        "\n  ",
        "- ",
        "&a",
        "*a",
        "<<: ",
        "_target_",
        "_args_",
        "!t ",
        "| ",
        "> ",
        "#",
        " #",
        "---\n",
        "null",
        "1e5",
        "-.inf",
        "é",
        "\u{0}",
        "\u{feff}",
        "\t",
        "\r",
        "\u{1b}",
        "\u{9b}",
        "\u{202e}",
        "%",
        "? ",
        "1",
        "-1",
        "t",
        "l",
        "name",
        "${",
        "$${",
        "${a.c[0]}",
        "env:",
        "@",
        ".yaml",
        "(",
        ")",
        "Struct(kind=Unit, name=x)",
        "_factory_",
        "_partial_",
        "_include_",
        "[[a]]\n",
        "\\ud800",
    ];
    prop_oneof![
        collection::vec(proptest::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.concat()),
        any::<String>(),
    ]
}

const BASE: &str = "a: {b: 1, c: [1, {d: x}]}\nt: {_target_: Unit}\nl: [1, 2.5]\nname: x\n";

/// Checks that an error renders, and that its origin is a range of whole characters.
fn renders(error: &config::ConfigError) {
    let report = config::render(error, false);
    assert!(!report.is_empty());
    assert_eq!(config::visible(&report), report, "a terminal shows all of it");
    if let Some((source, span)) = error.origin.as_ref().and_then(Origin::span) {
        assert!(source.text().get(span.offset..span.offset + span.len).is_some(), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in noise(), name in proptest::sample::select(vec!["noise.yaml", "noise.json", "noise.toml"])) {
        match config::parse(&Source::new(name, text.as_str())) {
            Err(error) => renders(&error),
            Ok(node) => {
                if let Err(error) = config::from_node::<Sample>(&node) {
                    renders(&error);
                }
                // Every parsed tree can be written and parsed again.
                let yaml = config::to_yaml_string(&node);
                let again = config::parse(&Source::new("again.yaml", yaml.as_str()));
                prop_assert!(again.is_ok(), "{:?}\n{}", again, yaml);
                prop_assert_eq!(config::to_yaml_string(&again.unwrap()), yaml);
                let json = config::parse(&Source::new("again.json", config::to_json_string(&node)))?;
                prop_assert_eq!(config::to_json(&json), config::to_json(&node));
                let mut merged = node.clone();
                config::merge(&mut merged, config::parse(&Source::new("base.yaml", BASE)).unwrap());
                config::leftover_deletions(&merged);
                match followed(&node) {
                    Err(problems) => problems.errors().iter().for_each(renders),
                    Ok(mut node) => {
                        if let Err(problems) = config::build::<Sample>(&mut node, &Factories::builtin()) {
                            problems.errors().iter().for_each(renders);
                        }
                    }
                }
            }
        }
    }

    /// Any value in the place of a type.
    #[test]
    fn no_call_panics(text in noise()) {
        let mut root = config::to_node(&[&text, &format!("Struct({text})"), &format!("Struct(kind={text}, name=x)")], Origin::Default)?;
        if let Err(problems) = config::build::<Vec<Kind>>(&mut root, &Factories::builtin()) {
            problems.errors().iter().for_each(renders);
        }
    }

    #[test]
    fn no_override_panics(texts in collection::vec(prop_oneof![
        noise(),
        ("(~)?(a|t|l|name)(\\.(b|c|d|_target_)|\\[[0-3]\\]){0,3}( ?[-+*/|]?= ?)", noise()).prop_map(|(head, tail)| head + &tail),
    ], 1..4)) {
        let mut root = config::parse(&Source::new("base.yaml", BASE)).unwrap();
        if let Err(problems) = config::apply_overrides(&mut root, texts.iter().map(String::as_str)) {
            prop_assert!(!config::render(&problems, false).is_empty());
            problems.errors().iter().for_each(renders);
        }
        config::to_yaml_string(&root);
    }

    #[test]
    fn no_path_panics(text in noise()) {
        let root = config::parse(&Source::new("base.yaml", BASE)).unwrap();
        let _ = text.parse::<Path>();
        let _ = config::locate(&root, &text);
        renders(&config::ConfigError::invalid(&root, &text, "message", None));
    }
}
