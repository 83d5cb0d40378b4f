//! What is written reads back the same, in every language and from one to the next.

use std::fmt::Debug;

use neva_run::config::{self, ConfigError, Edit, Node, Origin, Path, Segment, Source};
use proptest::{collection, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    followed,
    noise::noise,
    sample::{sample, text},
};

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
}
