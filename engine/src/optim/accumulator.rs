//! Where gradients gather while backward passes go on, and from where buckets of them are sent.

use super::partition::Partition;
use crate::comm::{Collective, Pending, Reduce};
use crate::error::{EngineError, Result};
use crate::parameters::Parameters;
use std::sync::Arc;
use tch::{Kind, Tensor, no_grad};

/// Flat fp32 buckets of gradients.
#[derive(Debug)]
pub(super) struct Accumulator {
    lanes: Vec<Lane>,
    /// Each parameter's gradient, shaped as the parameter: a view of its bucket.
    views: Vec<Tensor>,
    /// Each parameter's bucket.
    places: Vec<usize>,
    touched: Vec<bool>,
    arrivals: Vec<Arrival>,
    /// Buckets that are on their way: they are sent in one order on all ranks, whichever is full first.
    sent: usize,
    replicas: Arc<dyn Collective>,
    distributed: bool,
    overlap: bool,
}

/// One bucket.
#[derive(Debug)]
struct Lane {
    flat: Tensor,
    /// What this rank updates.
    share: Tensor,
    members: Vec<usize>,
    pending: Option<Pending>,
}

/// Whether more gradients of a parameter are to come in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Awaited,
    /// With the pass that is under way, and then no more.
    Last,
    Complete,
}

impl Accumulator {
    pub(super) fn new(parameters: &Parameters, partition: &Partition, overlap: bool) -> Result<Self> {
        let all: Vec<_> = parameters.trainable().collect();
        let mut lanes = Vec::new();
        for (index, bucket) in partition.buckets().iter().enumerate() {
            let device = bucket
                .members
                .first()
                .map_or(tch::Device::Cpu, |member| all[member.index].tensor.device());
            let flat = Tensor::f_zeros([bucket.len as i64], (Kind::Float, device))?;
            let share = partition.share(index);
            lanes.push(Lane {
                share: flat.f_narrow(0, share.start as i64, share.len() as i64)?,
                flat,
                members: bucket.members.iter().map(|member| member.index).collect(),
                pending: None,
            });
        }
        let mut views = Vec::new();
        let mut places = Vec::new();
        for (index, parameter) in all.iter().enumerate() {
            let (bucket, place) = partition.place(index);
            let flat = lanes[bucket].flat.f_narrow(0, place.start as i64, place.numel as i64)?;
            views.push(flat.f_view_as(&parameter.tensor)?);
            places.push(bucket);
        }
        Ok(Self {
            lanes,
            touched: vec![false; views.len()],
            arrivals: vec![Arrival::Awaited; views.len()],
            views,
            places,
            sent: 0,
            replicas: partition.replicas().clone(),
            distributed: partition.is_distributed(),
            overlap,
        })
    }

    pub(super) fn view(&self, index: usize) -> &Tensor {
        &self.views[index]
    }

    pub(super) fn touched(&self) -> &[bool] {
        &self.touched
    }

    /// Every bucket's values that this rank updates.
    pub(super) fn shares(&self) -> Vec<&Tensor> {
        self.lanes.iter().map(|lane| &lane.share).collect()
    }

    /// Zeros again.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.touched.fill(false);
        self.arrivals.fill(Arrival::Awaited);
        self.sent = 0;
        let flat: Vec<_> = self.lanes.iter().map(|lane| &lane.flat).collect();
        Ok(neva_torch_ffi::foreach::zero_(&flat)?)
    }

    /// A backward pass begins, behind which no more gradients of the parameters `last` come.
    pub(super) fn begin(&mut self, last: &[usize]) {
        for index in last {
            self.arrivals[*index] = Arrival::Last;
        }
    }

    /// The pass is over: what it did not reach has no gradient.
    pub(super) fn end(&mut self, last: &[usize]) -> Result<()> {
        for index in last {
            self.arrivals[*index] = Arrival::Complete;
        }
        self.send_full()
    }

    /// Adds a gradient of a parameter.
    pub(super) fn add(&mut self, index: usize, grad: Option<&Tensor>) -> Result<()> {
        if let Some(grad) = grad {
            if self.places[index] < self.sent {
                return Err(EngineError::Bug(format!(
                    "a gradient of parameter {index} comes behind the one that was called the last"
                )));
            }
            // Of another kind it is converted value by value, not into a copy.
            no_grad(|| self.views[index].shallow_clone().f_add_(grad).map(drop))?;
            self.touched[index] = true;
        }
        if self.arrivals[index] == Arrival::Last {
            self.arrivals[index] = Arrival::Complete;
            self.send_full()?;
        }
        Ok(())
    }

    /// Sends the buckets whose turn it is and to which nothing is added any more.
    fn send_full(&mut self) -> Result<()> {
        let full = |lane: &Lane| lane.members.iter().all(|index| self.arrivals[*index] == Arrival::Complete);
        while self.overlap && self.lanes.get(self.sent).is_some_and(full) {
            let (at, pending) = (self.sent, self.start(self.sent)?);
            self.lanes[at].pending = Some(pending);
            self.sent += 1;
        }
        Ok(())
    }

    /// Sends what is left. Buckets that a rank has no gradient for, a text-only batch's, are sent here.
    pub(super) fn send_rest(&mut self) -> Result<()> {
        while self.sent < self.lanes.len() {
            let (at, pending) = (self.sent, self.start(self.sent)?);
            self.sent += 1;
            if self.overlap {
                self.lanes[at].pending = Some(pending);
            } else {
                pending.wait()?;
            }
        }
        Ok(())
    }

    /// Waits until every share is a sum over all ranks.
    pub(super) fn wait(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            if let Some(pending) = lane.pending.take() {
                pending.wait()?;
            }
        }
        Ok(())
    }

    fn start(&self, bucket: usize) -> Result<Pending> {
        let Lane { flat, share, .. } = &self.lanes[bucket];
        Ok(if self.distributed {
            let by_rank = flat.f_view([self.replicas.size() as i64, -1])?;
            self.replicas.start_reduce_scatter(share, &by_rank)?
        } else {
            self.replicas.start_all_reduce(flat, Reduce::Sum)?
        })
    }
}
