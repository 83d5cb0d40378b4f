//! Texts that name a file.

use super::size;

/// Returns `text` with a further `@` if it would include a file; `None` for any other text.
pub(super) fn escaped(text: &str) -> Option<String> {
    let name = text.trim_start_matches('@');
    (name.len() < text.len() && split(name).is_some()).then(|| format!("@{text}"))
}

/// Splits `models.yaml:large` into the file and its section.
pub(super) fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let is_file = |name: &str| {
        size::EXTENSIONS
            .iter()
            .any(|extension| name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.')))
    };
    if is_file(text) {
        return Some((text, None));
    }
    let (name, section) = text.rsplit_once(':')?;
    is_file(name).then_some((name, Some(section)))
}
