//! Node lists of Slurm: `n[1-3,7],m4`.

/// Returns the names in a node list. A list that cannot be expanded stays one name.
pub(super) fn nodes(list: &str) -> Vec<String> {
    if list.is_empty() || list == "(null)" || list == "None assigned" {
        return Vec::new();
    }
    items(list)
        .into_iter()
        .flat_map(|item| expand(item).unwrap_or_else(|| vec![item.to_owned()]))
        .collect()
}

/// Maximum number of names, far more than any cluster has.
const MAX_NODES: usize = 100_000;

/// Splits a list at the commas outside of brackets.
fn items(list: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let outside = |letter: char| {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    };
    list.split(outside).filter(|item| !item.is_empty()).collect()
}

/// Expands the brackets of one item: each is a list of numbers and ranges with leading zeros.
fn expand(item: &str) -> Option<Vec<String>> {
    let Some((before, rest)) = item.split_once('[') else {
        return Some(vec![item.to_owned()]);
    };
    let (ranges, after) = rest.split_once(']')?;
    let tails = expand(after)?;
    let mut names = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let width = first.len();
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > MAX_NODES {
            return None;
        }
        for number in first..=last {
            names.extend(tails.iter().map(|tail| format!("{before}{number:0width$}{tail}")));
        }
    }
    (names.len() <= MAX_NODES).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_lists_are_expanded() {
        for (list, expected) in [
            ("", &[][..]),
            ("(null)", &[]),
            ("n1", &["n1"]),
            ("n[1-2]", &["n1", "n2"]),
            ("gpu[007,010-011],login", &["gpu007", "gpu010", "gpu011", "login"]),
            ("r[0-1]n[3-4]-ib", &["r0n3-ib", "r0n4-ib", "r1n3-ib", "r1n4-ib"]),
            ("n[1-", &["n[1-"]),
            ("n[a]", &["n[a]"]),
            ("n[0-99999999999]", &["n[0-99999999999]"]),
        ] {
            assert_eq!(nodes(list), expected, "{list}");
        }
    }
}
