//! The filter `tojson` as Hugging Face has it: Python's `json.dumps` without escapes for HTML and other alphabets.

use minijinja::{Error, ErrorKind, Value, value::Kwargs};

/// Writes `value` as Python does: `{"a": [1, 2]}`, or indented by `indent` spaces.
pub(super) fn tojson(value: &Value, indent: Option<usize>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<usize>>("indent")?,
    };
    // Python's other arguments do not change how texts and numbers are written.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        if kwargs.has(name) {
            kwargs.get::<Value>(name)?;
        }
    }
    kwargs.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut text = String::new();
    write(&value, indent, 0, &mut text);
    Ok(Value::from_safe_string(text))
}

fn write(value: &serde_json::Value, indent: Option<usize>, depth: usize, text: &mut String) {
    match value {
        serde_json::Value::Array(items) => {
            let items = items.iter().map(|item| (None, item));
            list(('[', ']'), items, indent, depth, text);
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (Some(name), field));
            list(('{', '}'), fields, indent, depth, text);
        }
        scalar => *text += &scalar.to_string(),
    }
}

fn list<'a>(
    (open, close): (char, char),
    items: impl ExactSizeIterator<Item = (Option<&'a String>, &'a serde_json::Value)>,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) {
    text.push(open);
    let new_line = |depth: usize, text: &mut String| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let is_empty = items.len() == 0;
    for (i, (name, item)) in items.enumerate() {
        if i > 0 {
            *text += if indent.is_some() { "," } else { ", " };
        }
        new_line(depth + 1, text);
        if let Some(name) = name {
            *text += &serde_json::Value::from(name.as_str()).to_string();
            *text += ": ";
        }
        write(item, indent, depth + 1, text);
    }
    if !is_empty {
        new_line(depth, text);
    }
    text.push(close);
}
