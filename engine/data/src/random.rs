//! Counter-based random numbers.
//!
//! A number is a pure function of (key, counter). A sample or an epoch therefore depends on its key only: not on the
//! numbers drawn before, the thread or the rank.

/// A stream of random numbers with random access: the caller passes the counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random {
    key: u64,
}

impl Random {
    /// Returns the stream with the key `words`, for example `[seed, index]`. The order of the words matters.
    pub(crate) fn new(words: &[u64]) -> Self {
        let key = words.iter().fold(0x6e65_7661, |key, &word| mix(key ^ mix(word)));
        Self { key }
    }

    /// Returns the 64 bits at `counter`.
    pub(crate) fn bits(self, counter: u64) -> u64 {
        mix(self.key.wrapping_add(counter.wrapping_mul(GOLDEN)))
    }

    /// Returns an integer in `0..bound` (0 for a bound of 0). It is computed by multiplication: the bias is below
    /// `bound / 2^64`.
    pub(crate) fn below(self, counter: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(counter)) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a multiple of 2^-24 in `[0, 1)`.
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
