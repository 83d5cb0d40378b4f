//! Patterns of hosts and files, as SSH's files write them.

/// Returns true if `name` fits a pattern with `*` and `?`, and none that begins with `!`.
pub(super) fn any_pattern_fits<'a>(patterns: impl Iterator<Item = &'a str>, name: &str) -> bool {
    let mut fits_one = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(excluded) if fits(excluded, name) => return false,
            Some(_) => {}
            None => fits_one |= fits(pattern, name),
        }
    }
    fits_one
}

/// Returns true if `name` fits `pattern`, in which `*` is any text and `?` any character.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    // The last `*`, and the place in the name up to which it reaches.
    let (mut star, mut p, mut n) = (None, 0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, reached)) = star else { return false };
                star = Some((at, reached + 1));
                p = at + 1;
                n = reached + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_ssh_config() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("*.org", "a.b.org", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "a-b-c", false),
            ("10.0.0.?", "10.0.0.7", true),
            ("10.0.0.?", "10.0.0.17", false),
            ("x", "y", false),
            ("**", "y", true),
        ] {
            assert_eq!(fits(pattern, name), expect, "{pattern} {name}");
        }
    }
}
