//! Sweeps: one task for each point, named by the values that differ between points.

mod axis;
mod grid;
mod name;

use std::collections::{BTreeMap, BTreeSet};

use neva_schemas::{SweepMode, SweepOrder};

use self::{
    axis::{Axis, parse_axis, split_path},
    grid::{grid_point, random_points},
    name::{folder_name, labels},
};
use crate::config::{self, ConfigError, Node, Origin, Path, PathError, ProblemKind, Problems, Value, from_node};

/// Most points of a sweep.
const MAX_POINTS: usize = 10_000;
/// Longest name of a point, in bytes: with the name of its task before it, it names a folder.
const MAX_NAME_LEN: usize = 80;

/// Values to try, and how they are combined.
#[derive(Debug, Clone)]
pub struct Sweep {
    axes: Vec<Axis>,
    order: SweepOrder,
    /// Where it was written, for problems of the whole sweep.
    origin: Option<Origin>,
}

/// One point: its overrides and its unique name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point {
    /// Usable as a folder name: `lr=1e-4`, or `lr=1e-4,dim=8`.
    pub name: String,
    /// The overrides, as `--set` takes them.
    pub sets: Vec<String>,
    /// Where the path and the value of each override were written.
    origins: Vec<[Origin; 2]>,
}

impl Point {
    /// Moves problems of this point's overrides to the place where the sweep was written.
    pub(crate) fn at_sweep(&self, problems: Problems) -> Problems {
        problems.map(|mut error| {
            let Some(Origin::Set { source, span }) = &error.origin else {
                return error;
            };
            if let Some(at) = self.sets.iter().position(|set| set == source.text()) {
                let [path, value] = &self.origins[at];
                let in_path = split_path(source.text()).is_some_and(|(path, _)| span.offset < path.len());
                error.origin = Some(if in_path { path.clone() } else { value.clone() });
            }
            error
        })
    }
}

impl Sweep {
    /// Parses texts of the form `path=value,value`. Values are YAML; a comma within brackets, braces or quotes belongs to
    /// the value.
    ///
    /// # Errors
    /// Every text that does not have this form, with its characters.
    pub fn parse(texts: &[impl AsRef<str>], order: SweepOrder) -> Result<Self, Problems> {
        let (mut axes, mut errors) = (Vec::new(), Vec::new());
        for text in texts {
            match parse_axis(text.as_ref()) {
                Ok(axis) => axes.push(axis),
                Err(error) => errors.push(error),
            }
        }
        Problems::check(errors)?;
        Ok(Self { axes, order, origin: None })
    }

    /// Reads `sweep:` of a file: `over`, a map of paths and lists of values, and `mode`, `samples`, `seed`.
    ///
    /// # Errors
    /// A value that does not have this form.
    pub(crate) fn from_node(node: &Node) -> Result<Self, ConfigError> {
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
            if let ProblemKind::UnknownField { allowed, .. } = &mut *error.problem {
                allowed.push(OVER.to_owned());
            }
            error
        })?;
        let written = over.as_ref().and_then(|entry| entry.node.as_map());
        let written = written.ok_or_else(|| {
            invalid(
                "`over` is missing: the paths and values to sweep",
                Some("write `over: {finetune.optim.lr: [1e-4, 2e-5]}`"),
                &node.origin,
            )
        })?;
        let mut axes = Vec::new();
        for (name, entry) in written {
            let path = name.parse().map_err(|error: PathError| invalid(&error.reason, None, &entry.key))?;
            let Value::Seq(items) = &entry.node.value else {
                return Err(invalid(
                    "the values of a path are a list",
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

    /// Returns the points in order; in a grid, the last axis changes fastest.
    ///
    /// # Errors
    /// No values, axes of unequal length in mode `zip`, a random sweep without `samples`, or too many points.
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
                    "a sweep of mode `zip` needs lists of equal length, but these have {}",
                    lengths.join(", ")
                );
                return Err(self.invalid(&message, None));
            }
            (SweepMode::Zip, None) => lengths[0],
            (SweepMode::Grid, None) => grid.unwrap_or(usize::MAX),
        };
        if count == 0 || count > MAX_POINTS {
            return Err(self.invalid(&format!("the sweep has {count} points; 1 to {MAX_POINTS} are allowed"), None));
        }
        let picks: Vec<Vec<usize>> = match self.order.mode {
            SweepMode::Zip => (0..count).map(|point| vec![point; lengths.len()]).collect(),
            SweepMode::Grid => (0..count).map(|point| grid_point(point, &lengths)).collect(),
            SweepMode::Random => random_points(count, &lengths, grid, self.order.seed),
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
            let end = (0..=MAX_NAME_LEN.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
            name.truncate(end.unwrap_or(0));
            // Values that differ only in removed characters would share a name.
            let twins = taken.entry(name.clone()).or_default();
            *twins += 1;
            if *twins > 1 {
                name = format!("{name}_{twins}");
                taken.insert(name.clone(), 1);
            }
            points.push(Point {
                name,
                sets: chosen().map(|(axis, (value, _))| format!("{}={value}", axis.path)).collect(),
                origins: chosen().map(|(axis, (_, origin))| [axis.origin.clone(), origin.clone()]).collect(),
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

fn invalid(message: &str, help: Option<&str>, origin: &Origin) -> ConfigError {
    ConfigError {
        path: Path::default(),
        origin: Some(origin.clone()),
        problem: Box::new(ProblemKind::Invalid {
            message: message.to_owned(),
            help: help.map(str::to_owned),
        }),
    }
}
