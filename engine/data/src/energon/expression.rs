//! Expressions that take a field of a sample from its parts.
//!
//! ```text
//! jpg                        the part `jpg`: an image, text, JSON or a number, by the last word of its name
//! jpg,png                    the first of several parts that the sample has
//! json[answers][0]           a value within a part of JSON
//! json[turns][*][value]      this value of every item: a list
//! json[turns][0::2][value]   of the items 0, 2, 4 ..: a slice, as in Python
//! parts(json[images])        the parts that these names name
//! parts(json[list], image)   every item that has `image` is the part of that name; other items stay
//! "a text"                   this text
//! ```
//!
//! The first three are Energon's own; its `field_map` has no others.

use serde_json::Value as Json;

use super::{raw_sample::RawSample, sample::Value};
use crate::error::DataError;

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// The first of these that is there.
    FirstOf(Vec<Access>),
    /// Parts that are named by the value, or by its field of this name.
    Parts(Vec<Access>, Option<String>),
    Text(String),
}

/// A part, and the way into its JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Access {
    pub(super) part: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A key of an object, or an index of a list.
    Key(String),
    /// A slice: start, stop and step.
    Slice(Option<i64>, Option<i64>, i64),
}

/// Names of values in parts that are not images, by the last word of a part's name.
const TEXT: &[&str] = &["txt", "text", "transcript"];
const NUMBER: &[&str] = &["cls", "cls2", "class", "count", "index", "inx", "id"];
const JSON: &[&str] = &["json", "jsn"];
const UNREAD: &[&str] = &[
    "pyd", "pickle", "pth", "ten", "tb", "mp", "msg", "npy", "npz", "cbor", "mp4", "avi", "mov", "mkv", "webm", "wav", "mp3", "flac",
    "ogg", "m4a", "h5", "pdf",
];

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    /// Returns the problem of the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('"') {
            return match serde_json::from_str(text) {
                Ok(text) => Ok(Self::Text(text)),
                Err(_) => Err(format!("`{text}` has no closing quote")),
            };
        }
        if let Some(inner) = text.strip_prefix("parts(") {
            let inner = inner
                .strip_suffix(')')
                .ok_or_else(|| format!("`{text}` has no closing parenthesis"))?;
            let (inner, key) = match inner.rsplit_once(',') {
                Some((inner, key)) if !key.contains(['[', ']']) && inner.ends_with(']') => (inner, Some(key.trim().to_owned())),
                _ => (inner, None),
            };
            return Ok(Self::Parts(accesses(inner)?, key));
        }
        accesses(text).map(Self::FirstOf)
    }

    /// Returns the value in a sample.
    ///
    /// # Errors
    /// A part is missing or invalid, or has no such value.
    pub(super) fn value(&self, sample: &RawSample) -> Result<Value, DataError> {
        match self {
            Self::Text(text) => Ok(Value::Text(text.clone())),
            Self::FirstOf(accesses) => first_of(accesses, sample),
            Self::Parts(accesses, key) => named_parts(first_of(accesses, sample)?, key.as_deref(), accesses, sample),
        }
    }
}

fn first_of(accesses: &[Access], sample: &RawSample) -> Result<Value, DataError> {
    let (last, others) = accesses.split_last().ok_or_else(|| sample.invalid("", "the mapping is empty"))?;
    for access in others {
        if sample.contains(&access.part)
            && let Ok(value) = access.value(sample)
        {
            return Ok(value);
        }
    }
    last.value(sample)
}

fn accesses(text: &str) -> Result<Vec<Access>, String> {
    // A comma within brackets is part of a key.
    let (mut list, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                list.push(Access::parse(&text[start..at])?);
                start = at + 1;
            }
            _ => {}
        }
    }
    list.push(Access::parse(&text[start..])?);
    Ok(list)
}

impl Access {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let open = text.find('[').unwrap_or(text.len());
        let (part, mut rest) = text.split_at(open);
        if part.is_empty() || part.contains([']', '(', ')', '"']) {
            return Err(format!("`{text}` is no part: write jpg, json[key] or parts(json[key])"));
        }
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((step, after)) = inner.filter(|(step, _)| !step.is_empty() && !step.contains('[')) else {
                return Err(format!("`{text}` has brackets that do not match: write json[key][0]"));
            };
            steps.push(Step::parse(step)?);
            rest = after;
        }
        Ok(Self {
            part: part.to_owned(),
            steps,
        })
    }

    fn value(&self, sample: &RawSample) -> Result<Value, DataError> {
        if !sample.contains(&self.part) {
            return Err(sample.missing(&self.part));
        }
        let ending = self.part.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let is_in = |list: &[&str]| list.contains(&ending.as_str());
        if is_in(JSON) {
            let value = sample.json(&self.part)?;
            return walk(value, &self.steps)
                .map(Value::from)
                .map_err(|reason| sample.invalid(&self.to_string(), reason));
        }
        if !self.steps.is_empty() {
            return Err(sample.invalid(
                &self.to_string(),
                format!("`{}` is not JSON, so it has no values within", self.part),
            ));
        }
        if is_in(TEXT) {
            return sample.text(&self.part).map(Value::Text);
        }
        if is_in(NUMBER) {
            let text = sample.text(&self.part)?;
            let number = text.trim().parse::<i64>();
            return number
                .map(|number| Value::Number(number.into()))
                .map_err(|_| sample.invalid(&self.part, format!("{text:?} is no whole number")));
        }
        if is_in(UNREAD) {
            let reason = format!("parts of the kind `{ending}` are not read: text, JSON and images are");
            return Err(sample.invalid(&self.part, reason));
        }
        Ok(Value::Image(self.part.clone()))
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.part)?;
        for step in &self.steps {
            match step {
                Step::Key(key) => write!(f, "[{key}]")?,
                Step::Slice(None, None, 1) => write!(f, "[*]")?,
                Step::Slice(start, stop, step) => {
                    let text = |bound: &Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
                    write!(f, "[{}:{}:{step}]", text(start), text(stop))?;
                }
            }
        }
        Ok(())
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Slice(None, None, 1));
        }
        let bounds: Vec<&str> = text.split(':').collect();
        let bound = |text: &str| match text.trim() {
            "" => Some(None),
            text => text.parse::<i64>().ok().map(Some),
        };
        match bounds.as_slice() {
            [start, stop] | [start, stop, _] => {
                let step = bounds.get(2).copied().unwrap_or("1");
                match (bound(start), bound(stop), bound(step)) {
                    (Some(start), Some(stop), Some(step)) => match step.unwrap_or(1) {
                        step if step > 0 => Ok(Self::Slice(start, stop, step)),
                        step => Err(format!("the step {step} of [{text}] must be above 0")),
                    },
                    // A key may have colons.
                    _ => Ok(Self::Key(text.to_owned())),
                }
            }
            _ => Ok(Self::Key(text.to_owned())),
        }
    }
}

fn walk(value: Json, steps: &[Step]) -> Result<Json, String> {
    let Some((step, rest)) = steps.split_first() else {
        return Ok(value);
    };
    match (step, value) {
        (Step::Key(key), Json::Object(mut fields)) => match fields.remove(key) {
            Some(value) => walk(value, rest),
            None => {
                let names: Vec<_> = fields.keys().map(String::as_str).collect();
                Err(format!("there is no key `{key}`; there are {}", names.join(", ")))
            }
        },
        (Step::Key(key), Json::Array(mut list)) => {
            let len = list.len();
            let index = key
                .parse::<i64>()
                .ok()
                .map(|index| if index < 0 { index + len as i64 } else { index });
            match index.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < len) {
                Some(index) => walk(list.swap_remove(index), rest),
                None => Err(format!("there is no item `{key}` in a list of {len}")),
            }
        }
        (Step::Slice(start, stop, by), Json::Array(list)) => {
            let len = list.len() as i64;
            let bound = |bound: Option<i64>, default: i64| {
                bound.map_or(default, |bound| if bound < 0 { (bound + len).max(0) } else { bound.min(len) })
            };
            let (start, stop) = (bound(*start, 0), bound(*stop, len));
            let chosen = list
                .into_iter()
                .zip(0i64..)
                .filter(|(_, index)| (start..stop).contains(index) && (index - start) % by == 0);
            let items = chosen.map(|(item, _)| walk(item, rest)).collect::<Result<_, _>>()?;
            Ok(Json::Array(items))
        }
        (step, value) => {
            let step = match step {
                Step::Key(key) => format!("[{key}]"),
                Step::Slice(..) => "a slice".to_owned(),
            };
            Err(format!("{step} asks for something within {}", super::metadata::kind(&value)))
        }
    }
}

/// Replaces names by the parts that they name.
fn named_parts(value: Value, key: Option<&str>, accesses: &[Access], sample: &RawSample) -> Result<Value, DataError> {
    let prefix = accesses.first().and_then(|access| Some(access.part.rsplit_once('.')?.0.to_owned()));
    let find = |name: &str| {
        // In a join, a name is one of the same dataset.
        let joined = prefix.as_ref().map(|prefix| format!("{prefix}.{name}"));
        let found = joined.filter(|joined| sample.contains(joined)).unwrap_or_else(|| name.to_owned());
        match sample.contains(&found) {
            true => Ok(Value::Image(found)),
            false => Err(sample.missing(name)),
        }
    };
    match (value, key) {
        (Value::List(items), key) => {
            let items = items.into_iter().map(|item| named_parts(item, key, accesses, sample));
            items.collect::<Result<_, _>>().map(Value::List)
        }
        (Value::Text(name), None) => find(&name),
        (Value::Object(fields), Some(key)) => match fields.get(key) {
            Some(Json::String(name)) => find(name),
            _ => Ok(Value::Object(fields)),
        },
        (value, Some(_)) => Ok(value),
        (value, None) => Err(sample.invalid("parts()", format!("needs names of parts, found {}", value.kind()))),
    }
}
