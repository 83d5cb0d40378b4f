//! Gradients of all trainable parameters in buckets, which are reduced in order during backward passes.

use super::grad_bucket::{GradBucket, GradReduction};
use super::partition::Partition;
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use neva_torch_ffi::foreach;
use tch::{Device, Tensor, no_grad};

/// Flat fp32 buckets of gradients.
#[derive(Debug)]
pub(super) struct GradBuffer {
    buckets: Vec<GradBucket>,
    places: Vec<Place>,
    touched: Vec<bool>,
    states: Vec<GradState>,
    /// Number of buckets whose reduction was started. All ranks start them in the same order.
    started: usize,
    reduction: GradReduction,
    overlap: bool,
}

/// Place of a parameter's gradient.
#[derive(Debug)]
struct Place {
    bucket: usize,
    start: i64,
    numel: i64,
    size: Vec<i64>,
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
        let buckets = partition.buckets().iter().enumerate().map(|(index, bucket)| {
            let first = bucket.members.first();
            let device = first.map_or(Device::Cpu, |member| all[member.index].tensor.device());
            GradBucket::new(bucket, device, partition.local_shard(index))
        });
        let buckets: Vec<_> = buckets.collect();
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
            reduction: GradReduction::of(partition),
            overlap,
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
        Ok(self.buckets[*bucket].flat().map(view).transpose()?)
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
        self.buckets.iter_mut().for_each(GradBucket::reset);
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
        self.buckets.get(bucket).is_some_and(|bucket| bucket.members().iter().all(complete))
    }

    /// Starts the reduction of the next buckets in order, as far as they are complete.
    fn start_full_buckets(&mut self) -> Result<()> {
        while self.overlap && self.is_full(self.started) {
            self.start_next_bucket()?;
        }
        Ok(())
    }

    /// Starts the reduction of all remaining buckets, including those without a gradient in a text-only batch.
    pub(super) fn start_remaining_buckets(&mut self) -> Result<()> {
        while self.started < self.buckets.len() {
            let at = self.started;
            self.start_next_bucket()?;
            if !self.overlap {
                self.buckets[at].finish(&self.reduction)?;
            }
        }
        Ok(())
    }

    /// Waits until every local shard is reduced over all ranks.
    pub(super) fn finish_grad_sync(&mut self) -> Result<()> {
        for bucket in &mut self.buckets {
            bucket.finish(&self.reduction)?;
        }
        Ok(())
    }

    /// Starts the reduction of the next bucket, in which parameters without a gradient have zeros.
    fn start_next_bucket(&mut self) -> Result<()> {
        let at = self.started;
        if self.reduction.with_others() {
            self.buckets[at].allocate()?;
        }
        let untouched = self.buckets[at].members().iter().filter(|index| !self.touched[**index]);
        let untouched = untouched.filter_map(|index| self.view(*index).transpose());
        let untouched = untouched.collect::<Result<Vec<_>>>()?;
        foreach::zero_(&untouched.iter().collect::<Vec<_>>())?;
        self.buckets[at].start_sync(&self.reduction)?;
        self.started += 1;
        Ok(())
    }
}
