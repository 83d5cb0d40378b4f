//! Counter-based random numbers.
//!
//! A number is a pure function of (key, counter), so that what a sample or an epoch looks like depends on its name
//! alone: not on how many numbers somebody drew before, on which thread, or on which rank.

/// A stream of random numbers that is addressed, not advanced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random {
    key: u64,
}

impl Random {
    /// The stream that `words` name, e.g. `[seed, index]`. The order of the words counts.
    pub(crate) fn of(words: &[u64]) -> Self {
        let key = words.iter().fold(0x6e65_7661, |key, &word| mix(key ^ mix(word)));
        Self { key }
    }

    /// The 64 bits at `counter`.
    pub(crate) fn bits(self, counter: u64) -> u64 {
        mix(self.key.wrapping_add(counter.wrapping_mul(GOLDEN)))
    }

    /// An integer in `0..bound` (0 for a bound of 0). By multiplication: the bias is below `bound / 2^64`.
    pub(crate) fn below(self, counter: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(counter)) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` on the grid of `f32`'s 24 bits.
    pub(crate) fn unit(self, counter: u64) -> f32 {
        (self.bits(counter) >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// 2^64 / golden ratio: SplitMix64's increment.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function (Steele, Lea and Flood, 2014).
fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
