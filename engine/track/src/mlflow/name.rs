//! What MLflow takes as a key and as a value (`mlflow/utils/validation.py`). A batch with one that it does not
//! take is refused as a whole.

use std::collections::BTreeMap;

/// Longest key, in characters.
const LONGEST_KEY: usize = 250;
/// Longest value of a parameter, in characters.
const LONGEST_PARAM: usize = 6000;
/// Longest value of a tag, in characters; servers before 2.15 take no more.
const LONGEST_TAG: usize = 5000;

/// `key` as MLflow takes it: other characters become `_`. A key may be a path, but one that does not change when
/// it is resolved.
pub(super) fn key(key: &str) -> String {
    let valid = |character: char| character.is_alphanumeric() || "_-. :".contains(character);
    let part = |part: &str| -> String {
        part.chars()
            .map(|character| if valid(character) { character } else { '_' })
            .collect()
    };
    let parts: Vec<_> = key.split('/').filter(|part| !["", ".", ".."].contains(part)).map(part).collect();
    let key: String = parts.join("/").chars().take(LONGEST_KEY).collect();
    // The cut may have left a slash or a lone dot at the end.
    match key.trim_end_matches(['/', '.']) {
        "" => "_".to_owned(),
        key => key.to_owned(),
    }
}

/// Parameters as MLflow takes them.
pub(super) fn params(params: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    cut(params, LONGEST_PARAM)
}

/// Tags as MLflow takes them.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    cut(tags, LONGEST_TAG)
}

/// Of keys that become the same the last stays: MLflow refuses a second value.
fn cut(entries: &BTreeMap<String, String>, longest: usize) -> BTreeMap<String, String> {
    let entries = entries.iter();
    entries
        .map(|(name, value)| (key(name), value.chars().take(longest).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_valid() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            assert_eq!(key(text), expect);
        }
        check("tokens/s", "tokens/s");
        check("train_step_timing in s", "train_step_timing in s");
        check("finetune.data.paths[0]", "finetune.data.paths_0_");
        check("größe", "größe");
        check("/a//b/./../c/", "a/b/c");
        check("a=b?\n", "a_b__");
        check("", "_");
        check("../..", "_");
        check(&"x".repeat(300), &"x".repeat(250));
        check(&format!("{}/y", "x".repeat(249)), &"x".repeat(249));
    }

    #[test]
    fn values_are_cut_between_characters() {
        let long = BTreeMap::from([("a?".to_owned(), "é".repeat(7000)), ("a!".to_owned(), "short".to_owned())]);
        assert_eq!(params(&long), BTreeMap::from([("a_".to_owned(), "é".repeat(6000))]));
        assert_eq!(tags(&long)["a_"].chars().count(), 5000);
    }
}
