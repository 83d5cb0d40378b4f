//! The words of the user's `ssh`, and words for it.

use super::known_hosts;

/// Returns what is wrong with a host's key and what to type, from the words of `ssh`.
pub(super) fn host_key_problem(text: &str, host: &str) -> (String, String) {
    let after = |words: &str| text.lines().find_map(|line| Some(line.split_once(words)?.1.trim().to_owned()));
    let sent = text
        .split_whitespace()
        .find(|word| word.starts_with("SHA256:"))
        .map(|word| word.trim_end_matches('.'));
    let offending = text
        .lines()
        .find(|line| line.starts_with("Offending"))
        .and_then(|line| Some(line.split_once(" in ")?.1.trim()));
    if let Some(at) = offending {
        let known = known_hosts::fingerprint_at(at).unwrap_or_else(|| "another one".to_owned());
        let sent = sent.unwrap_or("another one");
        let reason = format!("it has changed: {at} holds {known}, the server sent {sent}");
        let removal = after("ssh-keygen -f").map(|rest| format!("ssh-keygen -f {rest}"));
        let removal = removal.unwrap_or_else(|| format!("ssh-keygen -R {}", word(host)));
        let help = format!(
            "somebody may listen in, or the server was set up anew: ask its administrator for its fingerprint; if it is the new one, \
             type `{removal}`, log in once with `ssh`, and compare"
        );
        return (reason, help);
    }
    let kind = after("No ").and_then(|rest| Some(rest.split_once(" host key is known for ")?.0.to_owned()));
    let reason = format!("no {} key of it is in the file of known hosts", kind.unwrap_or_default()).replace("no  key", "no key");
    let help = format!(
        "log in once by hand, with `ssh {}`, and compare the fingerprint that it shows",
        word(host)
    );
    (reason, help)
}

/// Quotes a word for a shell where it needs to be.
pub(super) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,~".contains(c);
    if text.chars().all(is_plain) && !text.is_empty() {
        text.to_owned()
    } else {
        crate::tunnel::shell::quote(text)
    }
}
