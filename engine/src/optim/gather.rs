//! Weights that each rank has updated a share of, gathered on all ranks.

use super::partition::Partition;
use crate::comm::{Collective, CommError, Pending};
use crate::error::Result;
use crate::parameters::Parameters;
use std::sync::{Arc, Mutex, PoisonError};
use tch::Tensor;

/// Parameters that lie bucket by bucket in flat memory: a share of it is gathered in place.
#[derive(Debug)]
pub(super) struct Gather {
    group: Arc<dyn Collective>,
    /// Each bucket `[ranks, share]`, in the parameters' kind.
    buckets: Vec<Tensor>,
    /// Each parameter's bucket.
    places: Vec<usize>,
    flight: Mutex<Flight>,
}

/// What is on its way.
#[derive(Debug)]
struct Flight {
    /// By bucket.
    pending: Vec<Option<Pending>>,
    /// Why weights of this rank are not what they should be: whoever waits is told, again and again.
    failed: Option<CommError>,
}

impl Gather {
    /// Moves the trainable parameters' values into flat memory, bucket by bucket. Whoever has a handle on a
    /// parameter sees it there.
    pub(super) fn new(parameters: &Parameters, partition: &Partition) -> Result<Self> {
        let all: Vec<_> = parameters.trainable().collect();
        let mut buckets = Vec::new();
        for bucket in partition.buckets() {
            let Some(first) = bucket.members.first().map(|member| &all[member.index].tensor) else {
                continue;
            };
            let flat = Tensor::f_zeros([bucket.len as i64], (first.kind(), first.device()))?;
            for member in &bucket.members {
                let parameter = &all[member.index].tensor;
                let mut place = flat
                    .f_narrow(0, member.start as i64, member.numel as i64)?
                    .f_view(parameter.size().as_slice())?;
                place.f_copy_(&parameter.detach())?;
                parameter.shallow_clone().f_set_data(&place)?;
            }
            buckets.push(flat.f_view([partition.replicas().size() as i64, -1])?);
        }
        Ok(Self {
            group: partition.replicas().clone(),
            places: (0..all.len()).map(|index| partition.place(index).0).collect(),
            flight: Mutex::new(Flight {
                pending: buckets.iter().map(|_| None).collect(),
                failed: None,
            }),
            buckets,
        })
    }

    /// Starts to gather all buckets, the first layers' first: a forward pass needs them in that order.
    pub(super) fn start(&self) -> Result<()> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, pending) in self.buckets.iter().zip(&mut flight.pending).rev() {
            let share = bucket.f_select(0, self.group.rank() as i64)?;
            *pending = Some(self.group.start_all_gather(bucket, &share)?);
        }
        Ok(())
    }

    /// Waits for the buckets of these parameters.
    pub(super) fn wait_for(&self, parameters: impl Iterator<Item = usize>) -> Result<()> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for index in parameters {
            if let Some(pending) = flight.pending[self.places[index]].take()
                && let Err(error) = pending.wait()
            {
                flight.failed = Some(error);
            }
        }
        match &flight.failed {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }

    /// Waits for all of them.
    pub(super) fn settle(&self) -> Result<()> {
        self.wait_for(0..self.places.len())
    }
}
