//! Valid keys and values for MLflow (`mlflow/utils/validation.py`). MLflow refuses a whole batch if one of them is
//! invalid.

use std::collections::BTreeMap;

/// Maximum length of a key, in characters.
const MAX_KEY: usize = 250;
/// Maximum length of a parameter value, in characters.
const MAX_PARAM: usize = 6000;
/// Maximum length of a tag value, in characters; the limit of servers before 2.15.
const MAX_TAG: usize = 5000;

/// Returns `key` with invalid characters replaced by `_`. A key may be a path, but only a normalized one.
pub(super) fn key(key: &str) -> String {
    let valid = |character: char| character.is_alphanumeric() || "_-. :".contains(character);
    let part = |part: &str| -> String {
        part.chars()
            .map(|character| if valid(character) { character } else { '_' })
            .collect()
    };
    let parts: Vec<_> = key.split('/').filter(|part| !["", ".", ".."].contains(part)).map(part).collect();
    let key: String = parts.join("/").chars().take(MAX_KEY).collect();
    // Truncation may have left a slash or a lone dot at the end.
    match key.trim_end_matches(['/', '.']) {
        "" => "_".to_owned(),
        key => key.to_owned(),
    }
}

/// Returns valid parameters.
pub(super) fn params(params: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    cut(params, MAX_PARAM)
}

/// Returns valid tags.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    cut(tags, MAX_TAG)
}

/// Makes keys and values valid. The last of equal keys is kept, because MLflow refuses a second value.
fn cut(entries: &BTreeMap<String, String>, max_length: usize) -> BTreeMap<String, String> {
    let entries = entries.iter();
    entries
        .map(|(name, value)| (key(name), value.chars().take(max_length).collect()))
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
    fn values_are_truncated_between_characters() {
        let long = BTreeMap::from([("a?".to_owned(), "é".repeat(7000)), ("a!".to_owned(), "short".to_owned())]);
        assert_eq!(params(&long), BTreeMap::from([("a_".to_owned(), "é".repeat(6000))]));
        assert_eq!(tags(&long)["a_"].chars().count(), 5000);
    }
}
