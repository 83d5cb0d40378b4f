//! A consecutive part of a dataset: `subset: {range: [10%, 50%]}` or `[100, 200]`.

use std::ops::Range;

use serde_json::Value as Json;

use super::metadata::Section;
use crate::error::DataError;

/// A subset, as in Energon: the absolute range first, then the relative one of what is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampleRange {
    absolute: Option<(u64, Option<u64>)>,
    relative: (f64, f64),
}

impl SampleRange {
    /// The whole dataset.
    pub(super) const WHOLE: Self = Self {
        absolute: None,
        relative: (0.0, 1.0),
    };

    /// Reads the field `subset` of a section.
    pub(super) fn read(section: &Section<'_>) -> Result<Option<Self>, DataError> {
        let Some(value) = section.get("subset") else { return Ok(None) };
        let name = section.field("subset");
        let subset = Section::new(section.path, &name, value)?;
        subset.only(&["range"])?;
        let wrong = || {
            subset.invalid(
                "range",
                "must be two numbers of samples or two percentages: [100, 200], [100, end] or [0%, 50%]",
            )
        };
        let Some(Json::Array(bounds)) = subset.get("range") else {
            return Err(wrong());
        };
        let [start, end] = bounds.as_slice() else { return Err(wrong()) };
        let percent = |value: &Json| -> Option<f64> {
            let number: f64 = value.as_str()?.trim().strip_suffix('%')?.trim().parse().ok()?;
            (0.0..=100.0).contains(&number).then_some(number / 100.0)
        };
        let is_end = end.as_str().is_some_and(|text| text.trim() == "end");
        let range = if let (Some(start), Some(end)) = (percent(start), percent(end).or(is_end.then_some(1.0))) {
            Self {
                absolute: None,
                relative: (start, end),
            }
        } else if let (Some(start), true) = (start.as_u64(), is_end || end.as_u64().is_some()) {
            Self {
                absolute: Some((start, end.as_u64())),
                relative: (0.0, 1.0),
            }
        } else {
            return Err(wrong());
        };
        let is_reversed = match range.absolute {
            Some((start, end)) => end.is_some_and(|end| end < start),
            None => range.relative.1 < range.relative.0,
        };
        match is_reversed {
            true => Err(subset.invalid("range", "ends before it starts")),
            false => Ok(Some(range)),
        }
    }

    /// Returns the subset `self` of what `outer` leaves; `None` if `outer` is absolute, which only a dataset itself may be.
    pub(super) fn within(self, outer: Self) -> Option<Self> {
        let total = self.relative.1 - self.relative.0;
        outer.absolute.is_none().then_some(Self {
            absolute: self.absolute,
            relative: (
                self.relative.0 + outer.relative.0 * total,
                self.relative.0 + outer.relative.1 * total,
            ),
        })
    }

    /// Returns whether the range counts samples.
    pub(super) fn is_absolute(self) -> bool {
        self.absolute.is_some()
    }

    /// Returns the indices of the subset in a dataset of `len` samples; `None` if it leaves the dataset.
    pub(super) fn of(self, len: u64) -> Option<Range<u64>> {
        let (start, end) = self.absolute.map_or((0, len), |(start, end)| (start, end.unwrap_or(len)));
        if start > end || end > len {
            return None;
        }
        let part = |ratio: f64| ((end - start) as f64 * ratio) as u64;
        let (from, to) = (start + part(self.relative.0), start + part(self.relative.1));
        Some(from..to.clamp(from, end))
    }
}
