//! Which places of a sequence each rank of the context axis holds, and what each sees of another.
//!
//! A causal sequence that is cut into equal pieces gives the last rank most of the work. Zig-zag deals it out evenly
//! (Megatron-LM, `get_batch_on_this_cp_rank`): `2 p` chunks, of which rank `r` holds `r` and `2 p - 1 - r`.
//!
//! ```text
//! chunk   0  1  2  3  4  5  6  7
//! rank    0  1  2  3  3  2  1  0
//! ```
//!
//! A rank keeps its two chunks one behind the other: places of the whole row become local places, in their order.

use serde::Serialize;
use std::ops::Range;

/// One rank's part of every sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ZigZag {
    /// The rank on the context axis.
    pub rank: usize,
    /// Ranks of the context axis.
    pub ranks: usize,
}

/// What the queries of one segment see of another rank's keys: local places on either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Block {
    /// Queries, by this rank's places.
    pub queries: Range<usize>,
    /// Keys, by the other rank's places.
    pub keys: Range<usize>,
    /// Each query sees the keys up to its own place; else all of them.
    pub causal: bool,
}

impl ZigZag {
    /// The whole of each sequence.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };

    /// Rows of `s` places are cut evenly where this divides `s`.
    pub fn multiple(self) -> usize {
        if self.ranks == 1 { 1 } else { 2 * self.ranks }
    }

    /// The two pieces of a row of `s` places that this rank holds, ascending. `s` is a multiple of [`Self::multiple`].
    pub fn chunks(self, s: usize) -> [Range<usize>; 2] {
        if self.ranks == 1 {
            return [0..s, s..s];
        }
        let chunk = s / (2 * self.ranks);
        let last = 2 * self.ranks - 1 - self.rank;
        [self.rank * chunk..(self.rank + 1) * chunk, last * chunk..(last + 1) * chunk]
    }

    /// The places of a row of `s` that this rank holds, in its order.
    pub fn places(self, s: usize) -> impl Iterator<Item = usize> + Clone {
        let [lower, upper] = self.chunks(s);
        lower.chain(upper)
    }

    /// The rank's own number of a place of the whole row; `None` where another rank holds it.
    pub fn local(self, s: usize, place: usize) -> Option<usize> {
        let [lower, upper] = self.chunks(s);
        if lower.contains(&place) {
            Some(place - lower.start)
        } else if upper.contains(&place) {
            Some(lower.len() + place - upper.start)
        } else {
            None
        }
    }

    /// What this rank's queries of the segment `segment` of a row of `s` places see of the keys of rank `of`, which
    /// are its keys of the same segment. `None` where they see nothing.
    ///
    /// A segment that reaches into both chunks of a rank fills all between them, so that what a rank holds of it lies
    /// in one piece. A rank before this one holds a lower chunk that both chunks here see, and an upper chunk that
    /// neither does; of a rank behind it the upper chunk here sees both.
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
            causal: of == self.rank,
        };
        (!block.queries.is_empty() && !block.keys.is_empty()).then_some(block)
    }

    /// Local places of a segment.
    fn held(self, s: usize, segment: &Range<usize>) -> Range<usize> {
        let [lower, upper] = self.chunks(s);
        let local = |chunk: &Range<usize>, first: usize| {
            let part = within(segment, chunk);
            first + part.start - chunk.start..first + part.end - chunk.start
        };
        let (in_lower, in_upper) = (local(&lower, 0), local(&upper, lower.len()));
        match (in_lower.is_empty(), in_upper.is_empty()) {
            (false, false) => in_lower.start..in_upper.end,
            (false, true) => in_lower,
            _ => in_upper,
        }
    }
}

/// The part of `range` that lies in `bounds`; an empty one at a bound where there is none.
fn within(range: &Range<usize>, bounds: &Range<usize>) -> Range<usize> {
    let clamp = |place: usize| place.clamp(bounds.start, bounds.end);
    clamp(range.start)..clamp(range.end)
}
