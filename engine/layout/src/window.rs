//! Rectangles of parameters: the shard of a rank, the content of a file, the request of a reader.

use crate::parameter::ParamSpec;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A rectangle of a parameter as a matrix: the first dim is the rows, all other dims together are the columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Rows of the whole matrix.
    pub rows: Range<usize>,
    /// Columns of the whole matrix.
    pub columns: Range<usize>,
}

impl Window {
    /// Returns the window of a whole tensor of this shape; a vector is a column.
    pub fn whole(shape: &[usize]) -> Self {
        let rows = shape.first().copied().unwrap_or(1);
        Self {
            rows: 0..rows,
            columns: 0..shape.iter().skip(1).product(),
        }
    }

    /// Returns the same rectangle relative to the corner of `outer`, which contains it.
    pub fn within(&self, outer: &Self) -> Self {
        let from = |range: &Range<usize>, start: usize| range.start - start..range.end - start;
        Self {
            rows: from(&self.rows, outer.rows.start),
            columns: from(&self.columns, outer.columns.start),
        }
    }

    /// Returns the number of rows and of columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns.len()]
    }

    /// Returns the number of values.
    pub fn numel(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Returns the intersection, if it is not empty.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        let both = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start)..a.end.min(b.end);
        let window = Self {
            rows: both(&self.rows, &other.rows),
            columns: both(&self.columns, &other.columns),
        };
        (!window.rows.is_empty() && !window.columns.is_empty()).then_some(window)
    }
}

impl ParamSpec {
    /// Returns rows and columns of the whole parameter as a matrix; a vector is a column.
    pub fn matrix(&self) -> [usize; 2] {
        Window::whole(&self.shape).shape()
    }

    /// Returns the window that rank `tp_rank` of `tp` holds, without padding.
    pub fn window(&self, tp_rank: usize, tp: usize) -> Window {
        let whole = Window::whole(&self.shape);
        match self.shard(tp_rank, tp) {
            None => whole,
            Some(shard) if shard.dim == 0 => Window {
                rows: shard.start..shard.start + shard.len,
                ..whole
            },
            Some(shard) => Window {
                columns: shard.start..shard.start + shard.len,
                ..whole
            },
        }
    }

    /// Converts values `range` of the flattened tensor of rank `tp_rank` of `tp` to windows, without padding, each with
    /// its first index in that tensor. A range of a matrix is at most three rectangles: the end of a row, whole rows,
    /// the start of a row.
    pub fn windows_of(&self, range: Range<usize>, tp_rank: usize, tp: usize) -> Vec<(usize, Window)> {
        let window = self.window(tp_rank, tp);
        let width = window.columns.len();
        // Padding comes after the real rows.
        let range = range.start.min(window.numel())..range.end.min(window.numel());
        let mut windows = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (row, column) = (at / width, at % width);
            let (rows, columns) = if column > 0 || range.end - at < width {
                (1, (width - column).min(range.end - at))
            } else {
                ((range.end - at) / width, width)
            };
            let (first, left) = (window.rows.start + row, window.columns.start + column);
            windows.push((
                at,
                Window {
                    rows: first..first + rows,
                    columns: left..left + columns,
                },
            ));
            at += rows * columns;
        }
        windows
    }
}
