//! Gradient buckets: parameters whose gradients are reduced together.

use serde::Serialize;

/// A flat buffer that holds several parameters one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its parameters, in the order in which a backward pass reaches them.
    pub members: Vec<Member>,
    /// Number of values, padding at the end included.
    pub len: usize,
}

/// A parameter in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Number of the parameter.
    pub index: usize,
    /// Index of its first value in the bucket.
    pub start: usize,
    /// Its number of values.
    pub numel: usize,
}

/// Groups parameters of `numels` values into buckets of at most `size` values, or of one larger parameter. The last
/// parameter comes first, because a backward pass reaches the last layers first. Parameter `alone` gets its own bucket.
/// The length of each bucket is a multiple of `multiple`.
///
/// ```
/// # use neva_layout::{Member, buckets};
/// let [first, second] = &buckets(&[3, 4, 5], None, 10, 4)[..] else { unreachable!() };
/// assert_eq!(first.members, [Member { index: 2, start: 0, numel: 5 }, Member { index: 1, start: 5, numel: 4 }]);
/// assert_eq!((first.len, second.len), (12, 4));
/// ```
pub fn buckets(numels: &[usize], alone: Option<usize>, size: usize, multiple: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut closed = true;
    for (index, numel) in numels.iter().copied().enumerate().rev() {
        let alone = alone == Some(index);
        let full = |bucket: &Bucket| bucket.len.saturating_add(numel) > size;
        if closed || alone || buckets.last().is_none_or(full) {
            buckets.push(Bucket {
                members: Vec::new(),
                len: 0,
            });
        }
        closed = alone;
        if let Some(bucket) = buckets.last_mut() {
            let start = bucket.len;
            bucket.members.push(Member { index, start, numel });
            bucket.len += numel;
        }
    }
    for bucket in &mut buckets {
        bucket.len = bucket.len.next_multiple_of(multiple.max(1));
    }
    buckets
}
