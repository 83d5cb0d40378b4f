//! Brace expansion of shard names: `shard_{000..002}.tar`, `{a,b}.tar`. As Python's `braceexpand`.

/// Maximum number of names of one pattern.
const MAX_NAMES: usize = 1 << 22;

/// Returns the names that a pattern stands for, in their order.
///
/// # Errors
/// Returns the problem of the pattern.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let Some((open, close)) = outer(pattern) else {
        if pattern.matches('{').count() != pattern.matches('}').count() {
            return Err("has a brace without its partner".to_owned());
        }
        return Ok(vec![pattern.to_owned()]);
    };
    let (before, inner, after) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let choices = match range(inner)? {
        Some(names) => names,
        None => {
            let list = choices(inner);
            if list.len() < 2 {
                // As in a shell, `{a}` is text.
                let rest = expand(after)?;
                return Ok(rest.into_iter().map(|rest| format!("{before}{{{inner}}}{rest}")).collect());
            }
            let mut names = Vec::new();
            for choice in list {
                names.extend(expand(choice)?);
            }
            names
        }
    };
    let rest = expand(after)?;
    if choices.len().saturating_mul(rest.len()) > MAX_NAMES {
        return Err(format!("stands for more than {MAX_NAMES} names"));
    }
    let joined = choices
        .iter()
        .flat_map(|choice| rest.iter().map(move |rest| format!("{before}{choice}{rest}")));
    Ok(joined.collect())
}

/// Returns the positions of the first brace and of its partner.
fn outer(pattern: &str) -> Option<(usize, usize)> {
    let (mut open, mut depth) = (None, 0usize);
    for (at, c) in pattern.char_indices() {
        match c {
            '{' => {
                open = open.or(Some(at));
                depth += 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return open.map(|open| (open, at));
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at the commas that are in no inner braces.
fn choices(inner: &str) -> Vec<&str> {
    let (mut list, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                list.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    list.push(&inner[start..]);
    list
}

/// Returns the names of `000..012` or `000..012..4`; `None` if the text is no range.
fn range(inner: &str) -> Result<Option<Vec<String>>, String> {
    let parts: Vec<&str> = inner.split("..").collect();
    let (first, last, step) = match parts.as_slice() {
        [first, last] => (*first, *last, "1"),
        [first, last, step] => (*first, *last, *step),
        _ => return Ok(None),
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let (Some(from), Some(to), Some(step)) = (number(first), number(last), number(step)) else {
        return Ok(None);
    };
    let step = step.unsigned_abs().max(1);
    if from.abs_diff(to) / step >= MAX_NAMES as u64 {
        return Err(format!("stands for more than {MAX_NAMES} names"));
    }
    let is_padded = |text: &str| text.trim_start_matches('-').starts_with('0') && text.trim_start_matches('-').len() > 1;
    let width = match is_padded(first) || is_padded(last) {
        true => first.len().max(last.len()),
        false => 0,
    };
    let count = from.abs_diff(to) / step;
    let at = |index: u64| match from <= to {
        true => from.saturating_add_unsigned(index * step),
        false => from.saturating_sub_unsigned(index * step),
    };
    Ok(Some((0..=count).map(|index| format!("{:0width$}", at(index))).collect()))
}

/// Joins consecutive numbered names to ranges, in the order of the names: `a_{00..02}.tar`.
pub(super) fn collapse(names: &[String]) -> Vec<String> {
    let mut collapsed = Vec::new();
    let mut rest = names;
    while let Some((name, others)) = rest.split_first() {
        let parts = numbered(name);
        let mut count = 0;
        if let Some((before, digits, after)) = parts
            && let Ok(first) = digits.parse::<u64>()
        {
            let width = digits.len();
            let follows = |index: usize, other: &String| *other == format!("{before}{:0width$}{after}", first + index as u64 + 1);
            count = others
                .iter()
                .enumerate()
                .take_while(|(index, other)| follows(*index, other))
                .count();
            if count > 0 {
                collapsed.push(format!("{before}{{{digits}..{:0width$}}}{after}", first + count as u64));
            }
        }
        if count == 0 {
            collapsed.push(name.clone());
        }
        rest = others.get(count..).unwrap_or_default();
    }
    collapsed
}

/// Splits a name around its last number. `None`: it has none, or braces, which a range would change.
fn numbered(name: &str) -> Option<(&str, &str, &str)> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = name[..end]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + name[at..].chars().next().map_or(1, char::len_utf8));
    (!name.contains(['{', '}', ','])).then(|| (&name[..start], &name[start..end], &name[end..]))
}
