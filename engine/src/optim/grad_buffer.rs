//! Gradient buffers, and their reduction bucket by bucket during backward passes.

use super::partition::Partition;
use crate::comm::{ProcessGroup, Reduce, Work};
use crate::error::{EngineError, Result};
use crate::parameters::Parameters;
use std::sync::Arc;
use tch::{Kind, Tensor, no_grad};

/// Flat fp32 buckets of gradients.
#[derive(Debug)]
pub(super) struct GradBuffer {
    buckets: Vec<GradBucket>,
    /// Each parameter's gradient, shaped as the parameter: a view of its bucket.
    views: Vec<Tensor>,
    /// Each parameter's bucket.
    bucket_of: Vec<usize>,
    touched: Vec<bool>,
    states: Vec<GradState>,
    /// Number of buckets whose reduction was started. All ranks start them in the same order.
    started: usize,
    dp_cp: Arc<dyn ProcessGroup>,
    distributed: bool,
    overlap: bool,
    /// Data type in which gradients are sent.
    reduce_kind: Kind,
}

/// Buffer of one bucket.
#[derive(Debug)]
struct GradBucket {
    flat: Tensor,
    /// The values that this rank updates.
    local_shard: Tensor,
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
    pub(super) fn new(parameters: &Parameters, partition: &Partition, overlap: bool) -> Result<Self> {
        let all: Vec<_> = parameters.trainable().collect();
        let mut buckets = Vec::new();
        for (index, bucket) in partition.buckets().iter().enumerate() {
            let device = bucket
                .members
                .first()
                .map_or(tch::Device::Cpu, |member| all[member.index].tensor.device());
            let flat = Tensor::f_zeros([bucket.len as i64], (Kind::Float, device))?;
            let local_shard = partition.local_shard(index);
            buckets.push(GradBucket {
                local_shard: flat.f_narrow(0, local_shard.start as i64, local_shard.len() as i64)?,
                flat,
                members: bucket.members.iter().map(|member| member.index).collect(),
                work: None,
                received: None,
            });
        }
        let mut views = Vec::new();
        let mut bucket_of = Vec::new();
        for (index, parameter) in all.iter().enumerate() {
            let (bucket, place) = partition.location(index);
            let flat = buckets[bucket].flat.f_narrow(0, place.start as i64, place.numel as i64)?;
            views.push(flat.f_view_as(&parameter.tensor)?);
            bucket_of.push(bucket);
        }
        Ok(Self {
            buckets,
            touched: vec![false; views.len()],
            states: vec![GradState::Expected; views.len()],
            views,
            bucket_of,
            started: 0,
            dp_cp: partition.dp_cp_group().clone(),
            distributed: partition.is_distributed(),
            overlap,
            reduce_kind: partition.reduce_kind(),
        })
    }

    pub(super) fn view(&self, index: usize) -> &Tensor {
        &self.views[index]
    }

    pub(super) fn touched(&self) -> &[bool] {
        &self.touched
    }

    /// Returns every bucket's local shard.
    pub(super) fn local_shards(&self) -> Vec<&Tensor> {
        self.buckets.iter().map(|bucket| &bucket.local_shard).collect()
    }

    /// Resets all gradients. The first one of a parameter replaces the values of the last step; those of parameters without
    /// one become zeros before their bucket is reduced.
    pub(super) fn reset(&mut self) {
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
            if self.bucket_of[index] < self.started {
                return Err(EngineError::Bug(format!(
                    "a gradient of parameter {index} comes after its last backward pass"
                )));
            }
            // Another kind is converted value by value, without a copy.
            let mut sum = self.views[index].shallow_clone();
            no_grad(|| match self.touched[index] {
                true => sum.f_add_(grad).map(drop),
                false => sum.f_copy_(grad),
            })?;
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
        let untouched = self.buckets[bucket].members.iter().filter(|index| !self.touched[**index]);
        let untouched: Vec<_> = untouched.map(|index| &self.views[*index]).collect();
        neva_torch_ffi::foreach::zero_(&untouched)?;
        let (ranks, kind) = (self.dp_cp.size() as i64, self.reduce_kind);
        let GradBucket {
            flat,
            local_shard,
            received,
            ..
        } = &mut self.buckets[bucket];
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
    /// Waits for the reduction, if it was started.
    fn finish(&mut self, distributed: bool) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        work.wait()?;
        if let Some(received) = self.received.take() {
            let to = if distributed { &self.local_shard } else { &self.flat };
            to.shallow_clone().f_copy_(&received)?;
        }
        Ok(())
    }
}
