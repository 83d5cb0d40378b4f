//! Properties: what is written reads back the same, and no input makes the tree panic.
//!
//! `PROPTEST_CASES=1000000` in the environment makes a long run of it.

use std::{collections::BTreeMap, fmt::Debug};

use neva_run::config::{self, ConfigError, Edit, Environment, Factories, Node, Origin, Path, Segment, Source};
use proptest::{collection, option, prelude::*};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    text: String,
    floats: Vec<f64>,
    pair: (f32, i64),
    large: u64,
    flag: bool,
    letter: char,
    maybe: Option<String>,
    nested: Option<Box<Self>>,
    map: BTreeMap<String, Option<u8>>,
    numbers: BTreeMap<i32, Vec<String>>,
    kind: Kind,
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    #[serde(rename = "kind.Newtype")]
    Newtype(Inner),
    Scalar(f64),
    Maybe(Option<u8>),
    List(Vec<u8>),
    Map(BTreeMap<String, u8>),
    Tuple(u8, String),
    Struct {
        kind: Box<Self>,
        name: String,
    },
    Nested(Box<Self>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inner {
    #[serde(rename = "lr-max")]
    lr: f64,
    unit: Option<Plain>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Plain {
    Bf16,
    True,
}

/// Any text, and often one that YAML reads as something else.
fn text() -> impl Strategy<Value = String> {
    let odd = [
        "null",
        "true",
        "1.0",
        "~",
        "",
        "None",
        "yes",
        "1e5",
        "0x1F",
        ".inf",
        "a: b",
        "a #b",
        "- a",
        "x\ny",
        " x",
        "x ",
        "[",
        "{",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        "\"",
        "\\",
        "<<",
        "=",
        "---",
        "_target_x",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "🦀",
        "\r\n",
    ];
    prop_oneof![proptest::sample::select(odd.to_vec()).prop_map(str::to_owned), any::<String>()]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        proptest::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            1e-5,
            2e-5,
            1e16,
            1e300,
            5e-324,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY
        ]),
        any::<f64>().prop_filter("NaN equals nothing", |value| !value.is_nan()),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    let inner = (float(), option::of(proptest::sample::select(vec![Plain::Bf16, Plain::True])));
    let leaf = prop_oneof![
        Just(Kind::Unit),
        inner.prop_map(|(lr, unit)| Kind::Newtype(Inner { lr, unit })),
        float().prop_map(Kind::Scalar),
        option::of(any::<u8>()).prop_map(Kind::Maybe),
        collection::vec(any::<u8>(), 0..3).prop_map(Kind::List),
        collection::btree_map(text(), any::<u8>(), 0..3).prop_map(Kind::Map),
        (any::<u8>(), text()).prop_map(|(number, text)| Kind::Tuple(number, text)),
    ];
    leaf.prop_recursive(3, 8, 2, |kind| {
        prop_oneof![
            (kind.clone(), text()).prop_map(|(kind, name)| Kind::Struct {
                kind: Box::new(kind),
                name
            }),
            kind.prop_map(|kind| Kind::Nested(Box::new(kind))),
        ]
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    let scalars = (
        text(),
        collection::vec(float(), 0..4),
        any::<(i16, i64)>(),
        any::<(u64, bool, char)>(),
        option::of(text()),
    );
    let map = collection::btree_map(text(), option::of(any::<u8>()), 0..3);
    let numbers = collection::btree_map(any::<i32>(), collection::vec(text(), 0..40), 0..3);
    let flat = (scalars, map, numbers, kind(), collection::vec(kind(), 0..3)).prop_map(|(scalars, map, numbers, kind, kinds)| {
        let (text, floats, (small, long), (large, flag, letter), maybe) = scalars;
        let pair = (f32::from(small) / 10.0, long);
        Sample {
            text,
            floats,
            pair,
            large,
            flag,
            letter,
            maybe,
            nested: None,
            map,
            numbers,
            kind,
            kinds,
        }
    });
    let flat = flat.boxed();
    (flat.clone(), option::of(flat)).prop_map(|(outer, inner)| Sample {
        nested: inner.map(Box::new),
        ..outer
    })
}

/// Through the tree alone, through YAML, JSON and TOML, and from one to the next.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let node = config::to_node(value, Origin::recipe("test"))?;
    prop_assert_eq!(&config::from_node::<T>(&node)?, value);

    let yaml = config::to_yaml_string(&node);
    let read = match config::parse(&Source::new("written.yaml", yaml.as_str())) {
        Ok(read) => read,
        Err(error) => return Err(TestCaseError::fail(format!("{error}\n{yaml}"))),
    };
    match config::from_node::<T>(&read) {
        Ok(again) => prop_assert_eq!(&again, value, "{}", yaml),
        Err(error) => return Err(TestCaseError::fail(format!("{error}\n{yaml}"))),
    }
    // What was read is written as it was read, and means the same to a reader without types.
    prop_assert_eq!(config::to_yaml_string(&read), yaml);
    prop_assert_eq!(config::to_json(&read), config::to_json(&node));

    let mut node = node;
    for (name, write) in LANGUAGES.into_iter().chain(LANGUAGES) {
        let text = write(&node)?;
        let read = config::parse(&Source::new(name, text.as_str())).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&config::from_node::<T>(&read)?, value, "{}", text);
        prop_assert!(read == node, "{:?}\n{}", config::diff(&node, &read), text);
        node = read;
    }
    Ok(())
}

/// A text for a tree.
type Writer = fn(&Node) -> Result<String, ConfigError>;

const LANGUAGES: [(&str, Writer); 3] = [
    ("a.yaml", |node| Ok(config::to_yaml_string(node))),
    ("a.json", |node| Ok(config::to_json_string(node))),
    ("a.toml", config::to_toml_string),
];

#[test]
fn recipes_round_trip() {
    for recipe in neva_recipes::RECIPES {
        let finetune = (recipe.finetune)((recipe.default_args)());
        round_trip(&finetune).unwrap_or_else(|error| panic!("{}: {error}", recipe.name));
    }
}

/// Text that is nearly YAML, nearly an edit, or neither.
fn noise() -> impl Strategy<Value = String> {
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

/// Every origin is a range of whole characters, so that it can be underlined.
fn renders(error: &config::ConfigError) {
    let report = config::render(error, false);
    assert!(!report.is_empty());
    if let Some((source, span)) = error.origin.as_ref().and_then(Origin::span) {
        assert!(source.text().get(span.offset..span.offset + span.len).is_some(), "{error:?}");
    }
}

/// The tree with its references followed, in an environment without variables.
fn followed(node: &Node) -> Result<Node, config::Problems> {
    let environment = Environment {
        allowed: ["a".to_owned()].into(),
        read: &|_| None,
    };
    config::interpolate(node, node, &Path::default(), &environment)
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no others", |value| value.is_finite())
            .prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |value| {
        prop_oneof![
            collection::vec(value.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(text(), value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const BASE: &str = "a: {b: 1, c: [1, {d: x}]}\nt: {_target_: Unit}\nl: [1, 2.5]\nname: x\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_round_trip(value in sample()) {
        round_trip(&value)?;
    }

    #[test]
    fn paths_round_trip(segments in collection::vec(prop_oneof![text().prop_map(Segment::Key), any::<usize>().prop_map(Segment::Index)], 0..6)) {
        let path = Path(segments);
        prop_assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
    }

    #[test]
    fn a_path_that_parses_edits_that_place(segments in collection::vec(text(), 1..5), value in text()) {
        let path = Path(segments.into_iter().map(Segment::Key).collect());
        let mut root = config::parse(&Source::new("empty.yaml", "")).unwrap();
        let value = serde_json::Value::String(value).to_string();
        let set = format!("{path}={value}");
        let edit = Edit::parse(&set).unwrap();
        prop_assert_eq!(edit.path(), path.clone());
        edit.apply(&mut root).unwrap();
        let (source, span) = config::locate(&root, &path.to_string()).unwrap().span().unwrap();
        prop_assert_eq!(&source.text()[span.offset..][..span.len], value);
    }

    /// What a text means is not changed by references and names of files that it seems to have.
    #[test]
    fn escaped_text_is_read_as_it_is(pieces in collection::vec(prop_oneof![noise(), Just("@a.yaml".to_owned())], 1..4)) {
        let text = pieces.concat();
        let mut node = config::to_node(&[&text], Origin::Default)?;
        config::escape(&mut node);
        let mut read = config::parse(&Source::new("escaped.yaml", config::to_yaml_string(&node)))?;
        config::include(&mut read, std::path::Path::new("no-such-folder"))?;
        let read = followed(&read).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(config::from_node::<[String; 1]>(&read)?, [text]);
    }

    #[test]
    fn json_is_read_as_others_read_it(value in json()) {
        for text in [value.to_string(), format!("{value:#}")] {
            let node = config::parse(&Source::new("a.json", text.as_str()))?;
            prop_assert_eq!(config::to_json(&node), value.clone(), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in noise(), name in proptest::sample::select(vec!["noise.yaml", "noise.json", "noise.toml"])) {
        match config::parse(&Source::new(name, text.as_str())) {
            Err(error) => renders(&error),
            Ok(node) => {
                if let Err(error) = config::from_node::<Sample>(&node) {
                    renders(&error);
                }
                // Whatever was read can be written and read again.
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

    /// Anything that may stand where a type is asked for.
    #[test]
    fn no_call_panics(text in noise()) {
        let mut root = config::to_node(&[&text, &format!("Struct({text})"), &format!("Struct(kind={text}, name=x)")], Origin::Default)?;
        if let Err(problems) = config::build::<Vec<Kind>>(&mut root, &Factories::builtin()) {
            problems.errors().iter().for_each(renders);
        }
    }

    #[test]
    fn no_edit_panics(texts in collection::vec(prop_oneof![
        noise(),
        ("(~)?(a|t|l|name)(\\.(b|c|d|_target_)|\\[[0-3]\\]){0,3}( ?[-+*/|]?= ?)", noise()).prop_map(|(head, tail)| head + &tail),
    ], 1..4)) {
        let mut root = config::parse(&Source::new("base.yaml", BASE)).unwrap();
        if let Err(problems) = config::apply_edits(&mut root, texts.iter().map(String::as_str)) {
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
