//! Names of Kubernetes.

/// Maximum length of a name between two dots.
const MAX_LABEL: usize = 63;
/// Maximum length of a name with dots.
const MAX_NAME: usize = 253;

/// Returns true if `text` is a DNS label: at most 63 small letters, digits and `-`, with a letter or digit at both ends.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= MAX_LABEL && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Returns true if `text` is a DNS name: labels with dots between them, as names of Secrets and claims are.
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(is_dns_label)
}

/// Returns true if `text` is the key of a label or annotation: `app`, `example.org/team`.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// Returns true if `text` is the value of a label.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

fn is_qualified(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_LABEL && text.chars().all(inner) && ends(text.chars().next()) && ends(text.chars().last())
}

/// Returns true if `text` is a quantity: `4`, `0.5`, `500m`, `64Gi`, `1e3`.
pub(super) fn is_quantity(text: &str) -> bool {
    const SUFFIXES: &[&str] = &["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let digits = &text[..text.len() - number.len()];
    let is_exponent = || {
        let exponent = number.strip_prefix(['e', 'E']).map(|rest| rest.trim_start_matches(['+', '-']));
        exponent.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_number = digits.bytes().any(|byte| byte.is_ascii_digit()) && digits.matches('.').count() < 2;
    is_number && (SUFFIXES.contains(&number) || is_exponent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_names_and_quantities() {
        for good in ["a", "runs-1", "1a"] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "A", "a.b", "-a", "a-", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_dns_name("a.b-c.d") && !is_dns_name("a..b"));
        assert!(is_label_key("example.org/Team_a") && is_label_key("app") && !is_label_key("a/b/c") && !is_label_key("/b"));
        assert!(is_label_value("") && is_label_value("v1.2_x") && !is_label_value("two words"));
        for good in ["4", "0.5", ".5", "500m", "64Gi", "1e3", "2E-3", "1E"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "Gi", "64GB", "1.2.3", "-1", "1e", "four"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
