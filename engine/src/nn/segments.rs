//! Which positions of a batch belong together.

use std::ops::Range;

/// Segment bounds of each row of a batch: attention never crosses them. A row that is one sample has one
/// segment; a packed row has several. What lies behind a row's last bound is padding.
///
/// Bounds are those of the whole rows, also where a rank holds some of their places only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// For each row, the ends of its segments, ascending; the first starts at 0.
    ends: Vec<Vec<i64>>,
    /// The places of each row that are held, ascending; `None` for all of them.
    places: Option<Vec<i64>>,
}

impl Segments {
    /// One segment in each row.
    pub fn rows(lengths: &[usize]) -> Self {
        Self::packed(lengths.iter().map(|length| vec![*length as i64]).collect())
    }

    /// Several segments in each row: `bounds[row]` are the ends of its segments.
    pub fn packed(bounds: Vec<Vec<i64>>) -> Self {
        Self {
            ends: bounds,
            places: None,
        }
    }

    /// The same segments where only `places` (ascending) of each row are held.
    pub fn held(self, places: Vec<i64>) -> Self {
        Self {
            places: Some(places),
            ..self
        }
    }

    /// Position within its segment of each place that is held, row by row; all `s` places of a row unless it says
    /// otherwise which. Padding counts on.
    pub fn positions(&self, s: i64) -> Vec<Vec<i64>> {
        let all: Vec<_> = match &self.places {
            Some(places) => places.clone(),
            None => (0..s).collect(),
        };
        let row = |ends: &Vec<i64>| {
            let mut start = 0;
            let mut bounds = ends.iter().peekable();
            all.iter()
                .map(|place| {
                    while bounds.peek().is_some_and(|end| **end <= *place) {
                        start = bounds.next().copied().unwrap_or(start);
                    }
                    place - start
                })
                .collect()
        };
        self.ends.iter().map(row).collect()
    }

    /// Whether every row is a single segment from its start, so that causality alone keeps padding out.
    pub(crate) fn single(&self) -> bool {
        self.ends.iter().all(|ends| ends.len() <= 1)
    }

    /// The segments of each row of `s` places that have a place, padding left out.
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
