//! A cause as one sentence, the same for each attempt.

/// Maximum length of the cluster's words, in characters.
const MAX_WORDS: usize = 400;

/// Joins a reason, the cluster's words and a hint.
pub(super) fn sentence(reason: &str, words: &str, hint: &str) -> String {
    let words = without_ids(words);
    let words = words.trim().trim_end_matches([',', '.', ':', ' ']);
    let mut short: String = words.chars().take(MAX_WORDS).collect();
    if short.len() < words.len() {
        short += "...";
    }
    if short.is_empty() {
        format!("{reason}; {hint}")
    } else {
        format!("{reason}: {short}; {hint}")
    }
}

/// Removes the identifiers of containers, which are new in each attempt.
fn without_ids(words: &str) -> String {
    let is_id = |word: &str| {
        let word = word.trim_matches('"');
        word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    words.split(' ').filter(|word| !is_id(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_containers_are_left_out() {
        let id = "05917f09a629dee05e322ac8e0e92467b6e106c48c7dce1388215586ed5a6b23";
        let words = format!("failed to generate container \"{id}\" spec: no command specified");
        assert_eq!(
            sentence("CreateContainerError", &words, "correct `image`"),
            "CreateContainerError: failed to generate container spec: no command specified; correct `image`"
        );
    }
}
