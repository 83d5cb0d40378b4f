//! Gradient buffers, and their reduction bucket by bucket during backward passes.
//!
//! A bucket takes memory from its first gradient until the next step, as with `zero_grad(set_to_none=True)`: in a forward pass the
//! saved activations have that memory.

use super::partition::Partition;
use crate::comm::{ProcessGroup, Reduce, Work};
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use std::ops::Range;
use std::sync::Arc;
use tch::{Device, Kind, Tensor, no_grad};

/// Flat fp32 buckets of gradients.
#[derive(Debug)]
pub(super) struct GradBuffer {
    buckets: Vec<GradBucket>,
    places: Vec<Place>,
    touched: Vec<bool>,
    states: Vec<GradState>,
    /// Number of buckets whose reduction was started. All ranks start them in the same order.
    started: usize,
    dp_cp: Arc<dyn ProcessGroup>,
    distributed: bool,
    /// Whether other ranks reduce the same gradients, also those that this rank has not.
    with_others: bool,
    overlap: bool,
    /// Data type in which gradients are sent.
    reduce_kind: Kind,
}

/// Place of a parameter's gradient.
#[derive(Debug)]
struct Place {
    bucket: usize,
    start: i64,
    numel: i64,
    size: Vec<i64>,
}

/// Buffer of one bucket.
#[derive(Debug)]
struct GradBucket {
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

/// State of a parameter's gradient in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GradState {
    /// More backward passes follow.
    Expected,
    /// The present pass adds the last gradient.
    Last,
    /// No more gradients follow.
    Complete,
}

impl GradBuffer {
    pub(super) fn new(parameters: &Parameters, partition: &Partition, overlap: bool) -> Self {
        let all: Vec<_> = parameters.trainable().collect();
        let mut buckets = Vec::new();
        for (index, bucket) in partition.buckets().iter().enumerate() {
            let device = bucket
                .members
                .first()
                .map_or(tch::Device::Cpu, |member| all[member.index].tensor.device());
            buckets.push(GradBucket {
                flat: None,
                len: bucket.len as i64,
                filled: bucket.members.iter().map(|member| member.numel as i64).sum(),
                device,
                local_shard: partition.local_shard(index),
                members: bucket.members.iter().map(|member| member.index).collect(),
                work: None,
                received: None,
            });
        }
        let place = |(index, parameter): (usize, &&Parameter)| {
            let (bucket, member) = partition.location(index);
            Place {
                bucket,
                start: member.start as i64,
                numel: member.numel as i64,
                size: parameter.tensor.size(),
            }
        };
        let places: Vec<_> = all.iter().enumerate().map(place).collect();
        Self {
            buckets,
            touched: vec![false; places.len()],
            states: vec![GradState::Expected; places.len()],
            places,
            started: 0,
            dp_cp: partition.dp_cp_group().clone(),
            distributed: partition.is_distributed(),
            with_others: partition.with_others(),
            overlap,
            reduce_kind: partition.reduce_kind(),
        }
    }

    /// Returns a parameter's gradient, shaped as the parameter: a view of its bucket, if that has any gradient.
    pub(super) fn view(&self, index: usize) -> Result<Option<Tensor>> {
        let Place {
            bucket,
            start,
            numel,
            size,
        } = &self.places[index];
        let view = |flat: &Tensor| flat.f_narrow(0, *start, *numel)?.f_view(size.as_slice());
        Ok(self.buckets[*bucket].flat.as_ref().map(view).transpose()?)
    }

    pub(super) fn touched(&self) -> &[bool] {
        &self.touched
    }

    /// Returns the local shards of all buckets that have a gradient.
    pub(super) fn local_shards(&self) -> Result<Vec<Tensor>> {
        let shards = self.buckets.iter().filter_map(|bucket| bucket.shard().transpose());
        shards.collect()
    }

    /// Drops all gradients.
    pub(super) fn reset(&mut self) {
        self.buckets.iter_mut().for_each(|bucket| bucket.flat = None);
        self.touched.fill(false);
        self.states.fill(GradState::Expected);
        self.started = 0;
    }

    /// Marks the start of the last backward pass of the parameters `last`.
    pub(super) fn begin_pass(&mut self, last: &[usize]) {
        for index in last {
            self.states[*index] = GradState::Last;
        }
    }

    /// Marks the end of the pass: parameters that it did not reach have no gradient.
    pub(super) fn end_pass(&mut self, last: &[usize]) -> Result<()> {
        for index in last {
            self.states[*index] = GradState::Complete;
        }
        self.start_full_buckets()
    }

    /// Adds a gradient of a parameter.
    pub(super) fn add(&mut self, index: usize, grad: Option<&Tensor>) -> Result<()> {
        if let Some(grad) = grad {
            let at = self.places[index].bucket;
            if at < self.started {
                return Err(EngineError::Bug(format!(
                    "a gradient of parameter {index} comes after its last backward pass"
                )));
            }
            if !self.buckets[at].take(grad)? {
                let sum = self.view(index)?;
                let mut sum = sum.ok_or_else(|| EngineError::Bug(format!("the bucket of parameter {index} has no memory")))?;
                // Another kind is converted value by value, without a copy.
                no_grad(|| match self.touched[index] {
                    true => sum.f_add_(grad).map(drop),
                    false => sum.f_copy_(grad),
                })?;
            }
            self.touched[index] = true;
        }
        if self.states[index] == GradState::Last {
            self.states[index] = GradState::Complete;
            self.start_full_buckets()?;
        }
        Ok(())
    }

    /// Returns true if there is such a bucket and all its gradients are complete.
    fn is_full(&self, bucket: usize) -> bool {
        let complete = |index: &usize| self.states[*index] == GradState::Complete;
        self.buckets.get(bucket).is_some_and(|bucket| bucket.members.iter().all(complete))
    }

    /// Starts the reduction of the next buckets in order, as far as they are complete.
    fn start_full_buckets(&mut self) -> Result<()> {
        while self.overlap && self.is_full(self.started) {
            let (at, work) = (self.started, self.start_grad_sync(self.started)?);
            self.buckets[at].work = Some(work);
            self.started += 1;
        }
        Ok(())
    }

    /// Starts the reduction of all remaining buckets, including those without a gradient in a text-only batch.
    pub(super) fn start_remaining_buckets(&mut self) -> Result<()> {
        while self.started < self.buckets.len() {
            let (at, work) = (self.started, self.start_grad_sync(self.started)?);
            self.started += 1;
            self.buckets[at].work = Some(work);
            if !self.overlap {
                self.buckets[at].finish(self.distributed)?;
            }
        }
        Ok(())
    }

    /// Waits until every local shard is reduced over all ranks.
    pub(super) fn finish_grad_sync(&mut self) -> Result<()> {
        for bucket in &mut self.buckets {
            bucket.finish(self.distributed)?;
        }
        Ok(())
    }

    /// Starts the reduction of one bucket.
    fn start_grad_sync(&mut self, bucket: usize) -> Result<Work> {
        let (ranks, kind) = (self.dp_cp.size() as i64, self.reduce_kind);
        if self.with_others {
            self.buckets[bucket].allocate()?;
        }
        let untouched = self.buckets[bucket].members.iter().filter(|index| !self.touched[**index]);
        let untouched = untouched.filter_map(|index| self.view(*index).transpose());
        let untouched = untouched.collect::<Result<Vec<_>>>()?;
        neva_torch_ffi::foreach::zero_(&untouched.iter().collect::<Vec<_>>())?;
        let flat = match &self.buckets[bucket].flat {
            Some(flat) if self.with_others => flat.shallow_clone(),
            // Alone, a rank sends nothing.
            _ => return Ok(Work::done()),
        };
        let local_shard = self.buckets[bucket].shard()?.unwrap_or_default();
        let received = &mut self.buckets[bucket].received;
        // One rank sends nothing, so its gradients are not rounded.
        let sent = match kind {
            kind if kind != flat.kind() && ranks > 1 => flat.f_to_kind(kind)?,
            _ => flat.shallow_clone(),
        };
        let in_place = sent.kind() == flat.kind();
        Ok(if self.distributed {
            let shard = match in_place {
                true => local_shard.shallow_clone(),
                false => Tensor::f_empty(local_shard.size(), (kind, flat.device()))?,
            };
            let work = self.dp_cp.start_reduce_scatter(&shard, &sent.f_view([ranks, -1])?)?;
            *received = (!in_place).then_some(shard);
            work
        } else {
            let work = self.dp_cp.start_all_reduce(&sent, Reduce::Sum)?;
            *received = (!in_place).then_some(sent);
            work
        })
    }
}

impl GradBucket {
    /// Gives the gradients memory, with zeros as padding, which is sent, too.
    fn allocate(&mut self) -> Result<()> {
        if self.flat.is_none() {
            let flat = Tensor::f_empty([self.len], (Kind::Float, self.device))?;
            let _ = flat.f_narrow(0, self.filled, self.len - self.filled)?.f_zero_()?;
            self.flat = Some(flat);
        }
        Ok(())
    }

    /// Takes the memory of a gradient that is a bucket of its own, if it has none. Returns false if the gradient is to be added
    /// to the bucket's memory, which it has then. Nobody else may read the gradient afterwards: that of a matrix is the result of
    /// its own product, which holds for all layers of [`crate::nn`].
    fn take(&mut self, grad: &Tensor) -> Result<bool> {
        let is_bucket = self.members.len() == 1 && grad.numel() as i64 == self.len;
        if self.flat.is_none() && is_bucket && grad.kind() == Kind::Float && grad.is_contiguous() {
            self.flat = Some(grad.f_detach()?.f_view([-1])?);
            return Ok(true);
        }
        self.allocate()?;
        Ok(false)
    }

    /// Returns the values that this rank updates, if there are gradients.
    fn shard(&self) -> Result<Option<Tensor>> {
        let shard = |flat: &Tensor| flat.f_narrow(0, self.local_shard.start as i64, self.local_shard.len() as i64);
        Ok(self.flat.as_ref().map(shard).transpose()?)
    }

    /// Waits for the reduction, if it was started.
    fn finish(&mut self, distributed: bool) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        work.wait()?;
        if let Some(received) = self.received.take() {
            let to = if distributed {
                self.shard()?
            } else {
                self.flat.as_ref().map(Tensor::shallow_clone)
            };
            to.map(|mut to| to.f_copy_(&received)).transpose()?;
        }
        Ok(())
    }
}
