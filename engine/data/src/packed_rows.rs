//! Packing over a buffer: assigns the samples of a window of the stream to rows.
//!
//! An epoch is cut into windows of `buffer` samples, the last of which may be shorter. Each window is packed alone, so its
//! rows depend on seed, epoch and the lengths of its samples: not on ranks, workers and microbatches. Every sample of an
//! epoch is in one row. A window is packed when its first row is needed; `RowStart` says where a resumed run begins.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    error::DataError,
    measured::MeasuredLengths,
    order::SampleOrder,
    pack::pack_buffer,
    random::Random,
    row_stream::{Row, RowSample, RowStart, RowStream, samples_of},
};

/// Windows that stay in memory: workers read rows of neighbouring windows at the same time.
const KEPT: usize = 4;

/// Settings of [`PackedRows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackingOptions {
    /// Number of samples that are packed together.
    pub buffer: usize,
    /// Maximum number of positions of a row.
    pub row_length: usize,
    /// Maximum number of positions of a sample, at most `row_length`.
    pub max_length: usize,
    /// Leaves out samples that are longer than `max_length`, instead of truncating them.
    pub skips_longer: bool,
}

/// Rows packed from windows of a stream of samples.
pub struct PackedRows {
    lengths: Arc<MeasuredLengths>,
    order: Arc<dyn SampleOrder>,
    /// Samples of an epoch.
    epoch: u64,
    options: PackingOptions,
    /// Number of samples of the stream; `None` for an endless one.
    end: Option<u64>,
    windows: Mutex<Windows>,
}

/// The rows of a window, and the number of one of them.
type RowOfWindow = (Arc<[Row]>, usize);

/// Windows that are known.
struct Windows {
    /// Rows and samples before each known window, and before the next one.
    starts: Vec<RowStart>,
    /// Windows in memory, by their number in `starts`.
    packed: VecDeque<(usize, Arc<[Row]>)>,
    /// Windows without a row since the last one that had any.
    empty: u64,
}

impl PackedRows {
    /// Packs the endless stream `order`, from `start` on. `row` of a start whose settings differ is kept, and its `sample` is
    /// where the stream continues.
    #[must_use]
    pub fn endless(lengths: Arc<MeasuredLengths>, order: Arc<dyn SampleOrder>, options: PackingOptions, start: RowStart) -> Self {
        let epoch = order.epoch().unwrap_or(lengths.dataset().len() as u64);
        Self::new(lengths, order, epoch.max(1), options, start, None)
    }

    /// Packs the samples of a dataset once, in the order of their indices, as a validation reads them.
    #[must_use]
    pub fn once(lengths: Arc<MeasuredLengths>, options: PackingOptions) -> Self {
        let samples = lengths.dataset().len() as u64;
        let order = Arc::new(crate::order::Order {
            seed: 0,
            len: samples,
            shuffle: false,
        });
        let start = RowStart {
            row: 0,
            sample: 0,
            settings: 0,
        };
        Self::new(lengths, order, samples.max(1), options, start, Some(samples))
    }

    fn new(
        lengths: Arc<MeasuredLengths>,
        order: Arc<dyn SampleOrder>,
        epoch: u64,
        options: PackingOptions,
        start: RowStart,
        end: Option<u64>,
    ) -> Self {
        let start = RowStart {
            settings: options.hash(),
            ..start
        };
        Self {
            lengths,
            order,
            epoch,
            options,
            end,
            windows: Mutex::new(Windows {
                starts: vec![start],
                packed: VecDeque::new(),
                empty: 0,
            }),
        }
    }

    /// Returns the end (exclusive) of the window that starts at `sample`. Windows end with their epoch.
    fn window_end(&self, sample: u64) -> u64 {
        let buffer = self.options.buffer.max(1) as u64;
        let within = sample % self.epoch;
        let end = ((within / buffer + 1) * buffer).min(self.epoch);
        let end = sample - within + end;
        self.end.map_or(end, |last| end.min(last))
    }

    /// Packs the samples `start..end` of the stream.
    fn pack(&self, start: u64, end: u64) -> Result<Vec<Row>, DataError> {
        let samples = samples_of(&*self.order, start..end);
        let indices: Vec<u64> = samples.iter().map(|sample| sample.index).collect();
        let lengths = self.lengths.of(&indices)?;
        let PackingOptions {
            row_length,
            max_length,
            skips_longer,
            ..
        } = self.options;
        let fits = |positions: usize| !skips_longer || positions <= max_length;
        let kept: Vec<(RowSample, usize)> = (samples.into_iter().zip(&lengths))
            .filter(|(_, length)| fits(length.positions))
            .map(|(sample, length)| (sample, length.positions.min(max_length)))
            .collect();
        let lengths: Vec<usize> = kept.iter().map(|(_, length)| *length).collect();
        let mut rows: Vec<Row> = pack_buffer(&lengths, row_length)
            .into_iter()
            .map(|row| Row {
                samples: row
                    .iter()
                    .filter_map(|sample| kept.get(*sample))
                    .map(|(sample, _)| *sample)
                    .collect(),
                left_out: 0,
            })
            .collect();
        if let Some(first) = rows.first_mut() {
            first.left_out = indices.len() as u64 - kept.len() as u64;
        }
        Ok(rows)
    }

    /// Packs the known window of this number, and notes the start of the next one.
    fn pack_window(&self, windows: &mut Windows, number: usize) -> Result<Vec<Row>, DataError> {
        let Some(start) = windows.starts.get(number).copied() else {
            return Ok(Vec::new());
        };
        let end = self.window_end(start.sample);
        let mut rows = self.pack(start.sample, end)?;
        // All samples of the windows without a row in front of this one are left out.
        let first = windows.starts.partition_point(|known| known.row < start.row);
        let before = windows.starts.get(first).map_or(0, |known| start.sample - known.sample);
        if let Some(row) = rows.first_mut() {
            row.left_out += before;
        }
        windows.empty = if rows.is_empty() { windows.empty + end - start.sample } else { 0 };
        if windows.empty >= 2 * self.epoch {
            return Err(DataError::NothingFits {
                samples: self.epoch,
                max_length: self.options.max_length,
            });
        }
        if number + 1 == windows.starts.len() {
            windows.starts.push(RowStart {
                row: start.row + rows.len() as u64,
                sample: end,
                ..start
            });
        }
        Ok(rows)
    }

    fn lock(&self) -> MutexGuard<'_, Windows> {
        // A panic in between leaves the lists whole: each change is the last act of its window.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the window of a row, packed, and the row's number in it; `None` beyond the end.
    fn window(&self, row: u64) -> Result<Option<RowOfWindow>, DataError> {
        let mut windows = self.lock();
        loop {
            let at = windows.starts.partition_point(|start| start.row <= row);
            let Some((number, start)) = at.checked_sub(1).and_then(|at| Some((at, *windows.starts.get(at)?))) else {
                // Rows before the start of a resumed run were trained on.
                return Ok(None);
            };
            if self.end.is_some_and(|end| start.sample >= end) {
                return Ok(None);
            }
            if let Some((_, packed)) = windows.packed.iter().find(|(kept, _)| *kept == number) {
                return Ok(Some((Arc::clone(packed), (row - start.row) as usize)));
            }
            let rows = self.pack_window(&mut windows, number)?;
            if start.row + rows.len() as u64 > row {
                let packed: Arc<[Row]> = rows.into();
                windows.packed.push_back((number, Arc::clone(&packed)));
                if windows.packed.len() > KEPT {
                    windows.packed.pop_front();
                }
                return Ok(Some((packed, (row - start.row) as usize)));
            }
        }
    }
}

impl PackingOptions {
    /// Returns a hash of the settings that determine the rows.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let longer = u64::from(self.skips_longer);
        Random::new(&[self.buffer as u64, self.row_length as u64, self.max_length as u64, longer]).bits(0)
    }
}

impl RowStream for PackedRows {
    fn row(&self, row: u64) -> Result<Option<Row>, DataError> {
        Ok(self.window(row)?.and_then(|(rows, at)| rows.get(at).cloned()))
    }

    fn rows_of(&self, epochs: u64, limit: u64) -> Result<Option<u64>, DataError> {
        let end = self.epoch.saturating_mul(epochs);
        let mut windows = self.lock();
        loop {
            let known = windows.starts.len();
            // A window ends with its epoch, so the next one starts at `end`.
            match windows.starts.last() {
                Some(next) if next.sample < end && next.row < limit => self.pack_window(&mut windows, known - 1)?,
                next => return Ok(next.map(|next| next.row.min(limit))),
            };
        }
    }

    fn row_length(&self) -> Option<usize> {
        Some(self.options.row_length)
    }

    fn start(&self, row: u64) -> Result<Option<RowStart>, DataError> {
        let find = || {
            let windows = self.lock();
            // Of windows without a row, the first one: all ranks know it, however far they have read.
            let at = windows.starts.partition_point(|start| start.row < row);
            let next = windows.starts.get(at).copied()?;
            match next.row == row {
                true => Some(next),
                false => windows.starts.get(at.checked_sub(1)?).copied(),
            }
        };
        if let Some(start) = find() {
            return Ok(Some(start));
        }
        self.window(row)?;
        Ok(find())
    }
}
