//! The stream of rows that training reads: single samples, packed ones, or samples grouped by length.

use std::{ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    error::DataError,
    order::{BatchSampler, SampleOrder},
};

/// One sample of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSample {
    /// Position in the stream of samples, which no other sample has.
    pub position: u64,
    /// Dataset index.
    pub index: u64,
}

/// Samples of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The samples, in the order of their positions.
    pub samples: Vec<RowSample>,
    /// Number of samples before this row that no row has, because they are longer than a row.
    pub left_out: u64,
}

/// A row of the stream, and the sample with which its window starts. A checkpoint holds one, so that a resumed run need not
/// pack the samples before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowStart {
    /// Number of rows before.
    pub row: u64,
    /// Number of samples before.
    pub sample: u64,
    /// Hash of the settings that determine the rows.
    pub settings: u64,
}

/// The stream of rows. Which samples a row has is a function of its number, so that a run resumes at any row.
pub trait RowStream: Send + Sync {
    /// Returns the row of this number; `None` beyond the end of a finite stream.
    ///
    /// # Errors
    /// A sample cannot be read, so that its length is unknown.
    fn row(&self, row: u64) -> Result<Option<Row>, DataError>;

    /// Returns the number of rows of the first `epochs` epochs, at most `limit`; `None` if each row is one sample. Packing over
    /// a buffer reads the lengths of these samples for it.
    ///
    /// # Errors
    /// As [`Self::row`].
    fn rows_of(&self, _epochs: u64, _limit: u64) -> Result<Option<u64>, DataError> {
        Ok(None)
    }

    /// Returns the maximum length of a row that holds several samples; `None` if each row is one sample.
    fn row_length(&self) -> Option<usize> {
        None
    }

    /// Returns the start that a run needs to resume at this row, which was read or follows the last one that was read.
    ///
    /// # Errors
    /// As [`Self::row`].
    fn start(&self, _row: u64) -> Result<Option<RowStart>, DataError> {
        Ok(None)
    }
}

/// Returns the rows of a rank's `n`-th microbatch of a validation on a finite stream, or `None` after the last one: as
/// [`BatchSampler::validation`], for rows whose number is not known ahead. All ranks have the same number of microbatches.
pub fn validation_rows(rows: &dyn RowStream, sampler: &BatchSampler, limit: Option<u64>, n: u64) -> Option<Result<Vec<Row>, DataError>> {
    let batch = n.checked_div(sampler.num_microbatches())?;
    if limit.is_some_and(|limit| batch >= limit) {
        return None;
    }
    match rows.row(batch * sampler.global_batch_size) {
        Ok(None) => None,
        Err(error) => Some(Err(error)),
        Ok(Some(_)) => Some(sampler.positions(0, n).filter_map(|row| rows.row(row).transpose()).collect()),
    }
}

/// Returns the samples at these positions of a stream.
pub(crate) fn samples_of(order: &dyn SampleOrder, positions: Range<u64>) -> Vec<RowSample> {
    let sample = |position| RowSample {
        position,
        index: order.index(position),
    };
    positions.map(sample).collect()
}

/// Rows of one sample each, in the order of a stream of samples.
#[derive(Clone)]
pub struct SampleRows(pub Arc<dyn SampleOrder>);

impl RowStream for SampleRows {
    fn row(&self, row: u64) -> Result<Option<Row>, DataError> {
        let sample = RowSample {
            position: row,
            index: self.0.index(row),
        };
        Ok(Some(Row {
            samples: vec![sample],
            left_out: 0,
        }))
    }
}
