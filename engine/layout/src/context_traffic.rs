//! Formulas for the bytes that a rank sends for context parallelism and for images split among ranks. The counters of a
//! run must agree.
//!
//! In a ring of `p` ranks, a transfer of `n` bytes sends `n`, an all-gather of shards of `n` bytes `n (p - 1)`, a
//! reduce-scatter of `n` bytes `n (p - 1) / p`.

use serde::Serialize;

/// Keys and values of one layer and microbatch on one context-parallel rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KeysValues {
    /// Context-parallel size.
    pub ranks: usize,
    /// Rows.
    pub b: usize,
    /// Positions of each row on all ranks together.
    pub s: usize,
    /// Key heads that the rank holds.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl KeysValues {
    /// Returns the number of values in the keys and values of one rank.
    fn numel(&self) -> u64 {
        2 * (self.b * self.s / self.ranks * self.heads * self.head_dim) as u64
    }

    fn others(&self) -> u64 {
        self.ranks as u64 - 1
    }

    /// Returns the bytes sent in the forward pass: the rank's keys and values reach every other rank. A ring and an
    /// all-gather send the same.
    pub fn forward(&self) -> u64 {
        self.others() * self.numel() * self.bytes as u64
    }

    /// Returns the bytes sent in the backward pass: keys and values again, and their gradients in fp32. A ring sends the
    /// same as an all-gather and a reduce-scatter.
    pub fn backward(&self) -> u64 {
        self.forward() + self.others() * self.numel() * 4
    }
}

/// The images of a microbatch, split among the ranks that train on the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SharedImages {
    /// Tensor-parallel size; 1 if the vision encoder is tensor-parallel, so that these ranks encode the same images.
    pub tensor: usize,
    /// Context-parallel size.
    pub context: usize,
    /// Images of the microbatch.
    pub images: usize,
    /// Features of one image: positions x width of the language model.
    pub features: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl SharedImages {
    /// Returns the number of images that each rank encodes.
    pub fn images_per_rank(&self) -> usize {
        self.images.div_ceil(self.tensor * self.context)
    }

    fn own(&self) -> u64 {
        (self.images_per_rank() * self.features * self.bytes) as u64
    }

    /// Returns the bytes sent in the TP-CP group in the forward pass: the features of the rank's own images.
    pub fn forward(&self) -> u64 {
        (self.tensor * self.context - 1) as u64 * self.own()
    }

    /// Returns the bytes sent in the context-parallel group in the backward pass if vision encoder or projector are
    /// trained: gradients of the other ranks' images. Tensor-parallel ranks already hold the gradients of their own.
    pub fn backward(&self) -> u64 {
        (self.context - 1) as u64 * self.own()
    }
}
