//! One bucket of gradients: its memory, and its reduction over ranks.
//!
//! A bucket takes memory from its first gradient until the next step, as with `zero_grad(set_to_none=True)`: in a forward pass the
//! saved activations have that memory.

use super::partition::Partition;
use crate::comm::{ProcessGroup, Reduce, Work};
use crate::error::Result;
use neva_layout::Bucket;
use neva_torch_ffi::owns_memory;
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Reduction of gradients over the ranks that hold partial sums.
#[derive(Debug)]
pub(super) struct GradReduction {
    dp_cp: Arc<dyn ProcessGroup>,
    distributed: bool,
    /// Whether other ranks reduce the same gradients, also those that this rank has not.
    with_others: bool,
    /// Data type in which gradients are sent.
    kind: Kind,
}

impl GradReduction {
    pub(super) fn of(partition: &Partition) -> Self {
        Self {
            dp_cp: partition.dp_cp_group().clone(),
            distributed: partition.is_distributed(),
            with_others: partition.with_others(),
            kind: partition.reduce_kind(),
        }
    }

    pub(super) fn with_others(&self) -> bool {
        self.with_others
    }
}

/// A flat fp32 bucket of gradients.
#[derive(Debug)]
pub(super) struct GradBucket {
    /// The gradients, if there is one.
    flat: Option<Tensor>,
    len: i64,
    /// Number of values without padding.
    filled: i64,
    device: Device,
    /// The values that this rank updates.
    local_shard: Range<usize>,
    members: Vec<usize>,
    work: Option<Work>,
    /// The values that the reduction receives in another data type than fp32, until they are copied.
    received: Option<Tensor>,
}

impl GradBucket {
    pub(super) fn new(bucket: &Bucket, device: Device, local_shard: Range<usize>) -> Self {
        Self {
            flat: None,
            len: bucket.len as i64,
            filled: bucket.members.iter().map(|member| member.numel as i64).sum(),
            device,
            local_shard,
            members: bucket.members.iter().map(|member| member.index).collect(),
            work: None,
            received: None,
        }
    }

    /// Returns the numbers of its parameters, among the trainable ones.
    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    /// Returns the gradients, if there is one.
    pub(super) fn flat(&self) -> Option<&Tensor> {
        self.flat.as_ref()
    }

    /// Drops the gradients.
    pub(super) fn reset(&mut self) {
        self.flat = None;
    }

    /// Gives the gradients memory, with zeros as padding, which is sent, too.
    pub(super) fn allocate(&mut self) -> Result<()> {
        if self.flat.is_none() {
            let flat = Tensor::f_empty([self.len], (Kind::Float, self.device))?;
            let _ = flat.f_narrow(0, self.filled, self.len - self.filled)?.f_zero_()?;
            self.flat = Some(flat);
        }
        Ok(())
    }

    /// Takes the memory of a gradient that is a bucket of its own, if it has none. Returns false if the gradient is to be added
    /// to the bucket's memory, which it has then. Passes and reductions change that memory, so nobody else may have it.
    pub(super) fn take(&mut self, grad: &Tensor) -> Result<bool> {
        let is_bucket = self.members.len() == 1 && grad.numel() as i64 == self.len;
        let is_alike = grad.kind() == Kind::Float && grad.is_contiguous();
        if self.flat.is_none() && is_bucket && is_alike && owns_memory(grad)? {
            self.flat = Some(grad.f_detach()?.f_view([-1])?);
            return Ok(true);
        }
        self.allocate()?;
        Ok(false)
    }

    /// Returns the values that this rank updates, if there are gradients.
    pub(super) fn shard(&self) -> Result<Option<Tensor>> {
        let shard = |flat: &Tensor| flat.f_narrow(0, self.local_shard.start as i64, self.local_shard.len() as i64);
        Ok(self.flat.as_ref().map(shard).transpose()?)
    }

    /// Starts the reduction of the gradients.
    pub(super) fn start_sync(&mut self, reduction: &GradReduction) -> Result<()> {
        let work = self.sync(reduction)?;
        self.work = Some(work);
        Ok(())
    }

    fn sync(&mut self, reduction: &GradReduction) -> Result<Work> {
        let (ranks, kind) = (reduction.dp_cp.size() as i64, reduction.kind);
        let flat = match &self.flat {
            Some(flat) if reduction.with_others => flat.shallow_clone(),
            // Alone, a rank sends nothing.
            _ => return Ok(Work::done()),
        };
        // One rank sends nothing, so its gradients are not rounded.
        let sent = match kind {
            kind if kind != flat.kind() && ranks > 1 => flat.f_to_kind(kind)?,
            _ => flat.shallow_clone(),
        };
        let in_place = sent.kind() == flat.kind();
        Ok(if reduction.distributed {
            let local_shard = self.shard()?.unwrap_or_default();
            let shard = match in_place {
                true => local_shard,
                false => Tensor::f_empty(local_shard.size(), (kind, flat.device()))?,
            };
            let work = reduction.dp_cp.start_reduce_scatter(&shard, &sent.f_view([ranks, -1])?)?;
            self.received = (!in_place).then_some(shard);
            work
        } else {
            let work = reduction.dp_cp.start_all_reduce(&sent, Reduce::Sum)?;
            self.received = (!in_place).then_some(sent);
            work
        })
    }

    /// Waits for the reduction, if it was started.
    pub(super) fn finish(&mut self, reduction: &GradReduction) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        work.wait()?;
        if let Some(received) = self.received.take() {
            let to = match reduction.distributed {
                true => self.shard()?,
                false => self.flat.as_ref().map(Tensor::shallow_clone),
            };
            to.map(|mut to| to.f_copy_(&received)).transpose()?;
        }
        Ok(())
    }
}
