//! Segments of the rows of a batch.

use std::ops::Range;

/// Segment bounds of each row of a batch: attention never crosses them. A row of one sample has one segment; a packed row
/// has several. Positions after the last bound are padding.
///
/// Bounds refer to the whole rows, also with context parallelism. With a window, a query attends only to the nearest
/// positions of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// For each row, the ends of its segments, ascending; the first starts at 0.
    ends: Vec<Vec<i64>>,
    /// Local positions of each row, ascending; `None` for all of them.
    local: Option<Vec<i64>>,
    /// Number of positions that a query attends to, itself included; `None` for all earlier ones of its segment.
    window: Option<usize>,
}

impl Segments {
    /// Creates one segment in each row.
    pub fn rows(lengths: &[usize]) -> Self {
        Self::packed(lengths.iter().map(|length| vec![*length as i64]).collect())
    }

    /// Creates several segments in each row: `bounds[row]` are the ends of its segments.
    pub fn packed(bounds: Vec<Vec<i64>>) -> Self {
        Self {
            ends: bounds,
            local: None,
            window: None,
        }
    }

    /// Returns the same segments with only the local positions `positions` (ascending) of each row.
    pub fn held(self, positions: Vec<i64>) -> Self {
        Self {
            local: Some(positions),
            ..self
        }
    }

    /// Returns the same segments with a sliding window: a query attends to itself and the `window - 1` positions before it.
    #[must_use]
    pub fn windowed(&self, window: Option<usize>) -> Self {
        Self { window, ..self.clone() }
    }

    /// Returns the number of positions that a query attends to, itself included; `None` for all earlier ones.
    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    /// Returns, row by row, the position id of each local position within its segment; of all `s` positions without
    /// context parallelism. Padding continues the numbering.
    pub fn positions(&self, s: i64) -> Vec<Vec<i64>> {
        let local: Vec<_> = match &self.local {
            Some(local) => local.clone(),
            None => (0..s).collect(),
        };
        let row = |ends: &Vec<i64>| {
            let mut start = 0;
            let mut bounds = ends.iter().peekable();
            local
                .iter()
                .map(|position| {
                    while bounds.peek().is_some_and(|end| **end <= *position) {
                        start = bounds.next().copied().unwrap_or(start);
                    }
                    position - start
                })
                .collect()
        };
        self.ends.iter().map(row).collect()
    }

    /// Returns the number of segments in all rows.
    pub(crate) fn count(&self) -> usize {
        self.ends.iter().map(Vec::len).sum()
    }

    /// Returns the lengths of the segments of all rows.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.ranges(usize::MAX).flatten().map(|range| range.len()).collect()
    }

    /// Returns whether every row is a single segment, so that the causal mask alone excludes padding.
    pub(crate) fn single(&self) -> bool {
        self.ends.iter().all(|ends| ends.len() <= 1)
    }

    /// Returns the non-empty segments of each row of `s` positions, without padding.
    pub(crate) fn ranges(&self, s: usize) -> impl Iterator<Item = Vec<Range<usize>>> {
        self.ends.iter().map(move |ends| {
            let mut start = 0;
            let mut ranges = Vec::with_capacity(ends.len());
            for end in ends {
                let end = usize::try_from(*end).unwrap_or(0).min(s);
                if end > start {
                    ranges.push(start..end);
                    start = end;
                }
            }
            ranges
        })
    }
}
