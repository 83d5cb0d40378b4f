//! Bytes that a rank sends because it shares its sequences and its pictures with others, by formula; what is counted
//! while a run goes on must agree.
//!
//! Of `n` bytes in a group of `p` ranks that are a ring, a transfer sends `n`, an all-gather of parts of `n` bytes
//! `n (p - 1)`, a reduce-scatter of `n` bytes `n (p - 1) / p`.

use serde::Serialize;

/// Keys and values of one layer and micro-batch on one rank of the context axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KeysValues {
    /// Ranks of the context axis.
    pub ranks: usize,
    /// Rows.
    pub b: usize,
    /// Places of each row on all ranks together.
    pub s: usize,
    /// Heads of keys that the rank holds.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl KeysValues {
    /// Values of the keys and values of one rank.
    fn numel(&self) -> u64 {
        2 * (self.b * self.s / self.ranks * self.heads * self.head_dim) as u64
    }

    fn others(&self) -> u64 {
        self.ranks as u64 - 1
    }

    /// Sent in the forward pass: the rank's keys and values go by every other rank. The same on a ring as by an
    /// all-gather.
    pub fn forward(&self) -> u64 {
        self.others() * self.numel() * self.bytes as u64
    }

    /// Sent in the backward pass: keys and values once more, and behind them their gradients in fp32 on their way
    /// home. The same on a ring as by an all-gather and a reduce-scatter.
    pub fn backward(&self) -> u64 {
        self.forward() + self.others() * self.numel() * 4
    }
}

/// The pictures of a micro-batch, shared out over the ranks that train on the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SharedPictures {
    /// Ranks of the tensor axis; 1 where the vision encoder is cut over them, so that they work on the same pictures.
    pub tensor: usize,
    /// Ranks of the context axis.
    pub context: usize,
    /// Pictures of the micro-batch.
    pub pictures: usize,
    /// Features of one picture: positions x width of the language model.
    pub features: usize,
    /// Bytes of a value.
    pub bytes: usize,
}

impl SharedPictures {
    /// Pictures that each rank encodes.
    pub fn each(&self) -> usize {
        self.pictures.div_ceil(self.tensor * self.context)
    }

    fn own(&self) -> u64 {
        (self.each() * self.features * self.bytes) as u64
    }

    /// Sent over all ranks in the forward pass: the features of the rank's own pictures, to every other.
    pub fn forward(&self) -> u64 {
        (self.tensor * self.context - 1) as u64 * self.own()
    }

    /// Sent over the context axis in the backward pass, where vision encoder or projector are trained: gradients of
    /// the other ranks' pictures. The ranks of the tensor axis hold the same gradients, each those of its own.
    pub fn backward(&self) -> u64 {
        (self.context - 1) as u64 * self.own()
    }
}
