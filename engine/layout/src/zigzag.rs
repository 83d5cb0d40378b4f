//! Zig-zag partition of sequences among context-parallel ranks.
//!
//! Equal consecutive shards of a causal sequence would give the last rank most of the work. Zig-zag balances it
//! (Megatron-LM, `get_batch_on_this_cp_rank`): of `2 p` chunks, rank `r` holds `r` and `2 p - 1 - r`.
//!
//! ```text
//! chunk   0  1  2  3  4  5  6  7
//! rank    0  1  2  3  3  2  1  0
//! ```
//!
//! A rank stores its two chunks one after the other: local positions keep the order of the whole row.

use serde::Serialize;
use std::ops::Range;

/// One rank's shard of every sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ZigZag {
    /// Context-parallel rank.
    pub rank: usize,
    /// Context-parallel size.
    pub ranks: usize,
}

/// Queries of this rank and keys of another rank, in local positions of each, that attend to each other in one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Block {
    /// Queries, in this rank's positions.
    pub queries: Range<usize>,
    /// Keys, in the other rank's positions.
    pub keys: Range<usize>,
    /// Keys that each query attends to.
    pub mask: Mask,
}

/// Attention mask of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Mask {
    /// Every query attends to every key.
    All,
    /// Queries and keys have the same positions, and each query attends to the keys up to its own position.
    Causal,
    /// Each query attends to the keys in its window that are not after it: at least one.
    Window {
        /// Position of the first query in the whole row minus that of the first key.
        lead: i64,
        /// Number of positions that a query attends to, itself included.
        window: usize,
    },
}

impl ZigZag {
    /// The whole of each sequence.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };

    /// Returns the number that must divide the row length.
    pub fn multiple(self) -> usize {
        if self.ranks == 1 { 1 } else { 2 * self.ranks }
    }

    /// Returns the two chunks of a row of `s` positions that this rank holds, ascending. `s` is a multiple of
    /// [`Self::multiple`].
    pub fn chunks(self, s: usize) -> [Range<usize>; 2] {
        if self.ranks == 1 {
            return [0..s, s..s];
        }
        let chunk = s / (2 * self.ranks);
        let last = 2 * self.ranks - 1 - self.rank;
        [self.rank * chunk..(self.rank + 1) * chunk, last * chunk..(last + 1) * chunk]
    }

    /// Returns the positions of a row of `s` that this rank holds, in local order.
    pub fn positions(self, s: usize) -> impl Iterator<Item = usize> + Clone {
        let [lower, upper] = self.chunks(s);
        lower.chain(upper)
    }

    /// Converts a position of the whole row to a local position; `None` if another rank holds it.
    pub fn local(self, s: usize, position: usize) -> Option<usize> {
        let [lower, upper] = self.chunks(s);
        if lower.contains(&position) {
            Some(position - lower.start)
        } else if upper.contains(&position) {
            Some(lower.len() + position - upper.start)
        } else {
            None
        }
    }

    /// Returns the block of this rank's queries and rank `of`'s keys in the segment `segment` of a row of `s` positions.
    /// `None` if it is empty.
    ///
    /// A segment that reaches into both chunks of a rank covers everything between them, so its local positions are
    /// contiguous. Both chunks here attend to the lower chunk of a lower rank, and neither to its upper chunk. The upper
    /// chunk here attends to both chunks of a higher rank, the lower chunk to neither.
    pub fn block(self, of: usize, s: usize, segment: &Range<usize>) -> Option<Block> {
        let (own, other) = (self.held(s, segment), Self { rank: of, ..self }.held(s, segment));
        let half = s / (2 * self.ranks);
        let (queries, keys) = match of.cmp(&self.rank) {
            std::cmp::Ordering::Equal => (own, other),
            std::cmp::Ordering::Less => (own, within(&other, &(0..half))),
            std::cmp::Ordering::Greater => (within(&own, &(half..2 * half)), other),
        };
        let block = Block {
            queries,
            keys,
            mask: if of == self.rank { Mask::Causal } else { Mask::All },
        };
        (!block.queries.is_empty() && !block.keys.is_empty()).then_some(block)
    }

    /// Returns the blocks of [`Self::block`] under a sliding window: a query attends to itself and to the `window - 1`
    /// positions before it. There is one block for each pair of chunks that attend to each other. Keys without queries
    /// and queries without keys are left out.
    pub fn windowed_blocks(self, of: usize, s: usize, segment: &Range<usize>, window: usize) -> Vec<Block> {
        let other = Self { rank: of, ..self };
        let mut blocks = Vec::new();
        for own in self.chunks(s) {
            for keys in other.chunks(s) {
                let (own, keys) = (within(segment, &own), within(segment, &keys));
                // Queries from the first key up to the last that reaches a key; then the keys that these queries reach.
                let queries = own.start.max(keys.start)..own.end.min((keys.end + window).saturating_sub(1));
                let keys = keys.start.max((queries.start + 1).saturating_sub(window))..keys.end.min(queries.end);
                if queries.is_empty() || keys.is_empty() {
                    continue;
                }
                let (last_query, last_key) = (queries.end - 1, keys.end - 1);
                let mask = if last_key <= queries.start && last_query < keys.start + window {
                    Mask::All
                } else if queries == keys && queries.len() <= window {
                    Mask::Causal
                } else {
                    let lead = queries.start as i64 - keys.start as i64;
                    Mask::Window { lead, window }
                };
                let (Some(queries), Some(keys)) = (self.local_range(s, &queries), other.local_range(s, &keys)) else {
                    continue;
                };
                blocks.push(Block { queries, keys, mask });
            }
        }
        blocks
    }

    /// Returns the local positions of a range within one chunk.
    fn local_range(self, s: usize, range: &Range<usize>) -> Option<Range<usize>> {
        let start = self.local(s, range.start)?;
        Some(start..start + range.len())
    }

    /// Returns the local positions of a segment.
    fn held(self, s: usize, segment: &Range<usize>) -> Range<usize> {
        let [lower, upper] = self.chunks(s);
        let local = |chunk: &Range<usize>, first: usize| {
            let range = within(segment, chunk);
            first + range.start - chunk.start..first + range.end - chunk.start
        };
        let (in_lower, in_upper) = (local(&lower, 0), local(&upper, lower.len()));
        match (in_lower.is_empty(), in_upper.is_empty()) {
            (false, false) => in_lower.start..in_upper.end,
            (false, true) => in_lower,
            _ => in_upper,
        }
    }
}

/// Clips `range` to `bounds`; empty at a bound if they do not overlap.
fn within(range: &Range<usize>, bounds: &Range<usize>) -> Range<usize> {
    let clamp = |position: usize| position.clamp(bounds.start, bounds.end);
    clamp(range.start)..clamp(range.end)
}
