//! Sweeps: one task for each point, named by what differs between them.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use neva_schemas::{SweepMode, SweepOrder};

use crate::config::{self, ConfigError, Node, Origin, Path, PathError, Problem, Problems, Segment, Source, Span, Value, from_node};

/// Most points of a sweep.
const MAX_POINTS: usize = 10_000;
/// Longest name of a point, in bytes: it names a folder, with that of its task before it.
const LONGEST_NAME: usize = 80;

/// Values to try, and how they are combined.
#[derive(Debug, Clone)]
pub struct Sweep {
    axes: Vec<Axis>,
    order: SweepOrder,
    /// Where it was written, for what is wrong with it as a whole.
    origin: Option<Origin>,
}

/// The values of one path.
#[derive(Debug, Clone)]
struct Axis {
    path: Path,
    /// Where the path was written.
    origin: Origin,
    /// Each as YAML, with the place where it was written.
    values: Vec<(String, Origin)>,
}

/// One point: overrides, and a name that no other point has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// Fit for a folder: `lr=1e-4`, or `lr=1e-4,dim=8`.
    pub name: String,
    /// As `--set` takes them.
    pub sets: Vec<String>,
    /// Where path and value of each were written.
    places: Vec<[Origin; 2]>,
}

impl Point {
    /// What is wrong with an override of this point is told where its sweep was written.
    pub(crate) fn placed(&self, problems: Problems) -> Problems {
        problems.map(|mut error| {
            let Some(Origin::Set { source, span }) = &error.origin else {
                return error;
            };
            if let Some(at) = self.sets.iter().position(|set| set == source.text()) {
                let [path, value] = &self.places[at];
                let in_path = cut(source.text()).is_some_and(|(path, _)| span.offset < path.len());
                error.origin = Some(if in_path { path.clone() } else { value.clone() });
            }
            error
        })
    }
}

impl Sweep {
    /// Reads texts of the form `path=value,value`. Values are YAML; a comma within brackets, braces or quotes is the
    /// value's own.
    ///
    /// # Errors
    /// Every text that is not of this form, with its characters.
    pub fn parse(texts: &[impl AsRef<str>], order: SweepOrder) -> Result<Self, Problems> {
        let (mut axes, mut errors) = (Vec::new(), Vec::new());
        for text in texts {
            match axis(text.as_ref()) {
                Ok(axis) => axes.push(axis),
                Err(error) => errors.push(error),
            }
        }
        Problems::check(errors)?;
        Ok(Self { axes, order, origin: None })
    }

    /// Reads `sweep:` of a file: `over`, a map of paths and lists of values, and with it `mode`, `samples`, `seed`.
    ///
    /// # Errors
    /// What is not of this form.
    pub(crate) fn of(node: &Node) -> Result<Self, ConfigError> {
        const OVER: &str = "over";
        let Some(mut map) = node.as_map().cloned() else {
            return Err(invalid(
                "`sweep` is a map",
                Some("write `sweep: {over: {finetune.optim.lr: [1e-4, 2e-5]}}`"),
                &node.origin,
            ));
        };
        let over = map.shift_remove(OVER);
        let order: SweepOrder = from_node(&Node::new(node.origin.clone(), Value::Map(map))).map_err(|mut error| {
            if let Problem::UnknownField { allowed, .. } = &mut *error.problem {
                allowed.push(OVER.to_owned());
            }
            error
        })?;
        let written = over.as_ref().and_then(|entry| entry.node.as_map());
        let written = written.ok_or_else(|| {
            invalid(
                "`over` says what differs, and is missing",
                Some("write `over: {finetune.optim.lr: [1e-4, 2e-5]}`"),
                &node.origin,
            )
        })?;
        let mut axes = Vec::new();
        for (name, entry) in written {
            let path = name.parse().map_err(|error: PathError| invalid(&error.reason, None, &entry.key))?;
            let Value::Seq(items) = &entry.node.value else {
                return Err(invalid(
                    "the values to try are a list",
                    Some("write `[1e-4, 2e-5]`"),
                    &entry.node.origin,
                ));
            };
            let text = |item: &Node| match &item.value {
                Value::Plain(text) => text.clone(),
                _ => config::to_json(item).to_string(),
            };
            axes.push(Axis {
                path,
                origin: entry.key.clone(),
                values: items.iter().map(|item| (text(item), item.origin.clone())).collect(),
            });
        }
        let origin = Some(node.origin.clone());
        Ok(Self { axes, order, origin })
    }

    /// The points, in order: of a grid the last axis changes fastest.
    ///
    /// # Errors
    /// No values, axes of unequal length that are to be taken side by side, an order that lacks its number, or more
    /// points than anybody can want.
    pub fn points(&self) -> Result<Vec<Point>, ConfigError> {
        let lengths: Vec<_> = self.axes.iter().map(|axis| axis.values.len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(self.invalid("a sweep needs at least one value for each path", None));
        }
        let mut paths = BTreeSet::new();
        if let Some(twice) = self.axes.iter().find(|axis| !paths.insert(axis.path.to_string())) {
            return Err(self.invalid(
                &format!("`{}` is swept twice", twice.path),
                Some("put all its values into one list"),
            ));
        }
        let grid = lengths.iter().try_fold(1usize, |product, len| product.checked_mul(*len));
        let count = match (self.order.mode, self.order.samples) {
            (SweepMode::Random, Some(samples)) => grid.map_or(samples as usize, |grid| grid.min(samples as usize)),
            (SweepMode::Random, None) => {
                return Err(self.invalid(
                    "a random sweep needs a number of points",
                    Some("give it with `samples`, or `--sweep-samples N`"),
                ));
            }
            (_, Some(_)) => {
                return Err(self.invalid(
                    "only a random sweep has a number of points",
                    Some("remove it, or make the mode `random`"),
                ));
            }
            (SweepMode::Zip, None) if lengths.iter().any(|len| *len != lengths[0]) => {
                let lengths: Vec<_> = lengths.iter().map(ToString::to_string).collect();
                let message = format!(
                    "a sweep side by side needs lists of one length, and these have {}",
                    lengths.join(", ")
                );
                return Err(self.invalid(&message, None));
            }
            (SweepMode::Zip, None) => lengths[0],
            (SweepMode::Grid, None) => grid.unwrap_or(usize::MAX),
        };
        if count == 0 || count > MAX_POINTS {
            return Err(self.invalid(&format!("the sweep has {count} points, and may have 1 to {MAX_POINTS}"), None));
        }
        let picks: Vec<Vec<usize>> = match self.order.mode {
            SweepMode::Zip => (0..count).map(|point| vec![point; lengths.len()]).collect(),
            SweepMode::Grid => (0..count).map(|point| digits(point, &lengths)).collect(),
            SweepMode::Random => drawn(count, &lengths, grid, self.order.seed),
        };
        Ok(self.named(&picks))
    }

    fn named(&self, picks: &[Vec<usize>]) -> Vec<Point> {
        let labels = labels(self.axes.iter().map(|axis| &axis.path));
        let mut taken = BTreeMap::<String, usize>::new();
        let mut points = Vec::new();
        for pick in picks {
            let chosen = || self.axes.iter().zip(pick).map(|(axis, value)| (axis, &axis.values[*value]));
            let parts: Vec<_> = labels
                .iter()
                .zip(chosen())
                .map(|(label, (_, (value, _)))| folder_name(&format!("{label}={value}")))
                .collect();
            let mut name = parts.join(",");
            let end = (0..=LONGEST_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
            name.truncate(end.unwrap_or(0));
            // Values that differ in odd characters only have one name.
            let twins = taken.entry(name.clone()).or_default();
            *twins += 1;
            if *twins > 1 {
                name = format!("{name}_{twins}");
                taken.insert(name.clone(), 1);
            }
            points.push(Point {
                name,
                sets: chosen().map(|(axis, (value, _))| format!("{}={value}", axis.path)).collect(),
                places: chosen().map(|(axis, (_, place))| [axis.origin.clone(), place.clone()]).collect(),
            });
        }
        points
    }

    fn invalid(&self, message: &str, help: Option<&str>) -> ConfigError {
        let mut error = invalid(message, help, &Origin::Default);
        error.origin.clone_from(&self.origin);
        error
    }
}

fn axis(text: &str) -> Result<Axis, ConfigError> {
    let source = Source::new("--sweep", text);
    let at = |offset: usize, len: usize| Origin::File {
        source: source.clone(),
        span: Span { offset, len },
    };
    let Some((before, start)) = cut(text) else {
        return Err(invalid(
            "`=` is missing between the path and the values",
            Some("write `finetune.optim.lr=1e-4,2e-5`"),
            &at(0, text.len()),
        ));
    };
    let lead = before.len() - before.trim_start().len();
    let written = before.trim();
    if written.starts_with('~') || written.ends_with(['+', '-', '*', '/', '|']) || written.ends_with("[+]") {
        return Err(invalid(
            "a sweep sets values, and computes none",
            Some("write `path=value,value`"),
            &at(0, start),
        ));
    }
    let path: Path = written
        .parse()
        .map_err(|error: PathError| invalid(&error.reason, None, &at(lead + error.span.offset, error.span.len)))?;
    if path.0.is_empty() {
        return Err(invalid("the path is missing", Some("write `path=value,value`"), &at(0, start)));
    }
    let mut values = Vec::new();
    for (offset, value) in split(&text[start..]) {
        if value.trim().is_empty() {
            return Err(invalid(
                "a value is missing here",
                Some("an empty text is written `\"\"`"),
                &at(start + offset, value.len()),
            ));
        }
        // What is no YAML is told here, once, and not for each task.
        config::parse(&Source::new("--sweep", value)).map_err(|error| ConfigError {
            origin: Some(at(start + offset, value.len())),
            ..error
        })?;
        values.push((value.trim().to_owned(), at(start + offset, value.len())));
    }
    let origin = at(lead, written.len());
    Ok(Axis { path, origin, values })
}

/// The path of `path=values`, and where the values begin: the first `=` outside of quotes.
fn cut(text: &str) -> Option<(&str, usize)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((&text[..at], at + 1)),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Cuts at commas outside of brackets and quotes; each part with its offset.
fn split(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut start, mut depth, mut quote, mut escaped) = (Vec::new(), 0, 0usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{' | '(') => depth += 1,
            (None, ']' | '}' | ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push((start, &text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push((start, &text[start..]));
    parts
}

/// The shortest ends of the paths that tell them apart: `lr`, or `a.lr` and `b.lr`.
fn labels<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let paths: Vec<_> = paths.collect();
    let tail = |path: &Path, len: usize| {
        let segments = &path.0[path.0.len().saturating_sub(len)..];
        let words = segments.iter().map(|segment| match segment {
            Segment::Key(key) => key.clone(),
            Segment::Index(index) => index.to_string(),
        });
        words.collect::<Vec<_>>().join(".")
    };
    let label = |path: &Path| {
        let unique = |len: &usize| paths.iter().filter(|other| tail(other, *len) == tail(path, *len)).count() == 1;
        // A number alone says nothing.
        let named = |len: &usize| {
            path.0
                .len()
                .checked_sub(*len)
                .and_then(|at| path.0.get(at))
                .is_none_or(|first| matches!(first, Segment::Key(_)))
        };
        let len = (1..path.0.len()).find(|len| unique(len) && named(len)).unwrap_or(path.0.len());
        tail(path, len)
    };
    paths.iter().map(|path| label(path)).collect()
}

/// `text` with what a folder's name should not hold left out or changed.
fn folder_name(text: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || "-_.=+@,".contains(c);
    let dropped = |c: char| "\"'[]{}() ".contains(c);
    let name: String = text
        .chars()
        .filter(|c| !dropped(*c))
        .map(|c| if kept(c) { c } else { '-' })
        .collect();
    name.trim_start_matches(['.', '-']).to_owned()
}

/// The picks of point `number` of the grid.
fn digits(mut number: usize, lengths: &[usize]) -> Vec<usize> {
    let mut digits = vec![0; lengths.len()];
    for (digit, len) in digits.iter_mut().zip(lengths).rev() {
        *digit = number % len;
        number /= len;
    }
    digits
}

/// `count` different points of the grid, the same ones for the same seed, in the order of the draw.
fn drawn(count: usize, lengths: &[usize], grid: Option<usize>, seed: u64) -> Vec<Vec<usize>> {
    let mut state = seed;
    // Steele, Lea and Flood's SplitMix64: a few lines, and the same on every machine and version.
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut below = |len: usize| usize::try_from(next() % len as u64).unwrap_or(0);
    if let Some(grid) = grid.filter(|grid| *grid <= MAX_POINTS) {
        // Of a small grid, the beginning of a shuffle, so that all of it can be drawn.
        let mut order: Vec<usize> = (0..grid).collect();
        for at in 0..count {
            order.swap(at, at + below(grid - at));
        }
        return order[..count].iter().map(|point| digits(*point, lengths)).collect();
    }
    let mut points = IndexMap::new();
    while points.len() < count {
        let point: Vec<_> = lengths.iter().map(|len| below(*len)).collect();
        points.insert(point, ());
    }
    points.into_keys().collect()
}

fn invalid(message: &str, help: Option<&str>, origin: &Origin) -> ConfigError {
    ConfigError {
        path: Path::default(),
        origin: Some(origin.clone()),
        problem: Box::new(Problem::Invalid {
            message: message.to_owned(),
            help: help.map(str::to_owned),
        }),
    }
}
