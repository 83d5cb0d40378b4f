//! Written values read back the same, in every language and across languages.

use std::fmt::Debug;

use neva_run::config::{self, ConfigError, Node, Origin, Override, Path, Segment, Source};
use proptest::{collection, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    followed,
    noise::noise,
    sample::{sample, text},
};

/// Checks the round trip through the tree, through YAML, JSON and TOML, and across them.
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
    // A parsed tree keeps its spelling, and has the same meaning without types.
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

/// Function that writes a tree as text.
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
    fn an_override_sets_the_value_at_its_path(segments in collection::vec(text(), 1..5), value in text()) {
        let path = Path(segments.into_iter().map(Segment::Key).collect());
        let mut root = config::parse(&Source::new("empty.yaml", "")).unwrap();
        let value = serde_json::Value::String(value).to_string();
        let set = format!("{path}={value}");
        let over = Override::parse(&set).unwrap();
        prop_assert_eq!(over.path(), path.clone());
        over.apply(&mut root).unwrap();
        let (source, span) = config::locate(&root, &path.to_string()).unwrap().span().unwrap();
        prop_assert_eq!(&source.text()[span.offset..][..span.len], value);
    }

    /// Escaping keeps the meaning of texts that look like references or file names.
    #[test]
    fn escaped_text_is_read_unchanged(pieces in collection::vec(prop_oneof![noise(), Just("@a.yaml".to_owned())], 1..4)) {
        let text = pieces.concat();
        let mut node = config::to_node(&[&text], Origin::Default)?;
        config::escape(&mut node);
        let mut read = config::parse(&Source::new("escaped.yaml", config::to_yaml_string(&node)))?;
        config::include(&mut read, std::path::Path::new("no-such-folder"))?;
        let read = followed(&read).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(config::from_node::<[String; 1]>(&read)?, [text]);
    }

    #[test]
    fn json_is_read_as_serde_json_reads_it(value in json()) {
        for text in [value.to_string(), format!("{value:#}")] {
            let node = config::parse(&Source::new("a.json", text.as_str()))?;
            prop_assert_eq!(config::to_json(&node), value.clone(), "{}", text);
        }
    }
}
