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
    arrivals: Arc<Arrivals>,
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Name and bucket of each trainable parameter.
    places: Vec<(String, usize)>,
    flight: Mutex<Flight>,
}

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
                let place = flat.f_narrow(0, member.start as i64, member.numel as i64)?;
                let mut place = place.f_view(parameter.size().as_slice())?;
                place.f_copy_(&parameter.detach())?;
                parameter.shallow_clone().f_set_data(&place)?;
            }
            buckets.push(flat.f_view([partition.replicas().size() as i64, -1])?);
        }
        let place = |(index, parameter): (usize, &&crate::parameters::Parameter)| (parameter.spec.name.clone(), partition.place(index).0);
        Ok(Self {
            group: partition.replicas().clone(),
            arrivals: Arc::new(Arrivals {
                places: all.iter().enumerate().map(place).collect(),
                flight: Mutex::new(Flight {
                    pending: buckets.iter().map(|_| None).collect(),
                    failed: None,
                }),
            }),
            buckets,
        })
    }

    /// Starts to gather all buckets, the first layers' first: a forward pass needs them in that order.
    pub(super) fn start(&self) -> Result<()> {
        let mut flight = self.arrivals.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, pending) in self.buckets.iter().zip(&mut flight.pending).rev() {
            let share = bucket.f_select(0, self.group.rank() as i64)?;
            *pending = Some(self.group.start_all_gather(bucket, &share)?);
        }
        Ok(())
    }

    pub(super) fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }
}

impl Arrivals {
    /// Waits for the buckets of the parameters whose names fit.
    pub(super) fn wait_for(&self, fits: impl Fn(&str) -> bool) -> Result<()> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, bucket) in &self.places {
            if flight.pending[*bucket].is_some()
                && fits(name)
                && let Some(pending) = flight.pending[*bucket].take()
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
}

/// Whether `name` is the parameter `prefix`, or one below it.
pub(super) fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
