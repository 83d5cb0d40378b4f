//! Reduces a series to a few points per pixel column.

use std::fmt;

/// A point of a chart, in pixels.
type Point = (f64, f64);

/// Lines of one series, interrupted where values are missing.
#[derive(Debug, Default)]
pub(super) struct Curve {
    lines: Vec<Vec<Point>>,
}

impl Curve {
    /// Creates a curve of points from left to right; `None` is a missing value.
    ///
    /// Keeps the first, last, lowest and highest point of each pixel column, so the plot looks the same, including spikes. A
    /// column without any value interrupts the line.
    pub(super) fn new(points: impl Iterator<Item = (f64, Option<f64>)>) -> Self {
        let mut curve = Self::default();
        let mut column: Option<Column> = None;
        for (x, y) in points {
            let number = x.floor();
            if column.as_ref().is_some_and(|column| column.number != number) {
                curve.push(column.take());
            }
            let column = column.get_or_insert(Column { number, kept: None });
            if let Some(y) = y {
                column.add((x, y));
            }
        }
        curve.push(column);
        curve.lines.retain(|line| !line.is_empty());
        curve
    }

    fn push(&mut self, column: Option<Column>) {
        match (column.and_then(|column| column.kept), self.lines.last_mut()) {
            (None, _) => self.lines.push(Vec::new()),
            (Some(kept), Some(line)) => line.extend(kept.points()),
            (Some(kept), None) => self.lines.push(kept.points()),
        }
    }

    /// Returns isolated points: a line of one point would be invisible.
    pub(super) fn dots(&self) -> impl Iterator<Item = Point> {
        self.lines.iter().filter(|line| line.len() == 1).flatten().copied()
    }

    /// Returns all kept points.
    pub(super) fn points(&self) -> impl Iterator<Item = Point> {
        self.lines.iter().flatten().copied()
    }

    pub(super) fn has_lines(&self) -> bool {
        self.lines.iter().any(|line| line.len() > 1)
    }
}

/// Formats the lines as the data of an SVG path.
impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines.iter().filter(|line| line.len() > 1) {
            for (index, (x, y)) in line.iter().enumerate() {
                write!(f, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' })?;
            }
        }
        Ok(())
    }
}

struct Column {
    number: f64,
    kept: Option<Kept>,
}

impl Column {
    fn add(&mut self, point: Point) {
        let kept = self.kept.get_or_insert(Kept {
            first: point,
            lowest: point,
            highest: point,
            last: point,
        });
        kept.last = point;
        if point.1 < kept.lowest.1 {
            kept.lowest = point;
        }
        if point.1 > kept.highest.1 {
            kept.highest = point;
        }
    }
}

/// Kept points of a column.
struct Kept {
    first: Point,
    lowest: Point,
    highest: Point,
    last: Point,
}

impl Kept {
    /// Returns each point once, from left to right.
    fn points(self) -> Vec<Point> {
        let mut points = vec![self.first, self.lowest, self.highest, self.last];
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup();
        points
    }
}
