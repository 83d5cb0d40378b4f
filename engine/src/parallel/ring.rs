//! Keys and values on their way round the ranks of a sequence (ring attention, arXiv:2310.01889).

use crate::comm::{Collective, CommError, Pending};
use neva_torch_ffi::BoxError;
use std::sync::Arc;
use tch::{Kind, TchError, Tensor};

/// One way round. Each rank computes with what it has while that travels on to the next rank, so that in step `i` a
/// rank has what belongs to the rank `i` places before it.
pub(super) struct Ring {
    group: Arc<dyn Collective>,
    call: u32,
}

/// What travels.
#[derive(Clone, Copy)]
enum Cargo {
    Forward,
    Backward,
    Gradient,
}

impl Ring {
    /// `call` is a number that the ranks have given to no other call whose transfers may still be under way.
    pub(super) fn new(group: Arc<dyn Collective>, call: u32) -> Self {
        Self { group, call }
    }

    /// `see` is given each rank's keys and values, this rank's own first.
    pub(super) fn forward(&self, own: Tensor, mut see: impl FnMut(usize, &Tensor) -> Result<(), TchError>) -> Result<(), BoxError> {
        let mut here = own;
        for step in 0..self.group.size() {
            let next = self.pass_on(&here, Cargo::Forward, step)?;
            see(self.owner(step), &here)?;
            if let Some(next) = next {
                here = next.arrive()?;
            }
        }
        Ok(())
    }

    /// `see` is given each rank's keys and values once more, and a tensor to add this rank's share of their gradient
    /// to. Returns the gradient of `own`, in fp32.
    ///
    /// The gradient of a rank's keys starts at the next rank and follows the keys one step behind, until every rank
    /// has added its share; then it goes home, where the owner's own share waits.
    pub(super) fn backward(
        &self,
        own: Tensor,
        mut see: impl FnMut(usize, &Tensor, &Tensor) -> Result<(), TchError>,
    ) -> Result<Tensor, BoxError> {
        let options = (Kind::Float, own.device());
        let mut total = Tensor::f_zeros(own.size(), options)?;
        let mut here = own;
        let mut follower: Option<Passage> = None;
        for step in 0..self.group.size() {
            let next = self.pass_on(&here, Cargo::Backward, step)?;
            if step == 0 {
                see(self.owner(step), &here, &total)?;
            } else {
                let mut share = Tensor::f_zeros(here.size(), options)?;
                see(self.owner(step), &here, &share)?;
                if let Some(before) = follower.take() {
                    let _ = share.f_add_(&before.arrive()?)?;
                }
                follower = Some(self.send_on(&share, Cargo::Gradient, step)?);
            }
            if let Some(next) = next {
                here = next.arrive()?;
            }
        }
        if let Some(home) = follower {
            let _ = total.f_add_(&home.arrive()?)?;
        }
        Ok(total)
    }

    /// The rank whose keys are here in a step.
    fn owner(&self, step: usize) -> usize {
        (self.group.rank() + self.group.size() - step) % self.group.size()
    }

    /// Sends on what is here, unless it has been everywhere.
    fn pass_on(&self, here: &Tensor, cargo: Cargo, step: usize) -> Result<Option<Passage>, BoxError> {
        let last = step + 1 == self.group.size();
        (!last).then(|| self.send_on(here, cargo, step)).transpose()
    }

    fn send_on(&self, here: &Tensor, cargo: Cargo, step: usize) -> Result<Passage, BoxError> {
        let (rank, ranks) = (self.group.rank(), self.group.size());
        let tag = self.tag(cargo, step);
        let into = here.f_empty_like()?;
        Ok(Passage {
            sent: self.group.send(here, (rank + 1) % ranks, tag)?,
            received: self.group.recv(&into, (rank + ranks - 1) % ranks, tag)?,
            _from: here.shallow_clone(),
            into,
        })
    }

    /// Distinct for each call, cargo and step; calls begin anew where the numbers end, which is after hundreds of
    /// millions of transfers.
    fn tag(&self, cargo: Cargo, step: usize) -> u32 {
        let ranks = self.group.size() as u32;
        let each = 3 * ranks;
        (self.call % (i32::MAX as u32 / each)) * each + cargo as u32 * ranks + step as u32
    }
}

/// A tensor on its way to the next rank, and one from the rank before.
struct Passage {
    sent: Pending,
    received: Pending,
    /// Must last until it is sent.
    _from: Tensor,
    into: Tensor,
}

impl Passage {
    fn arrive(self) -> Result<Tensor, CommError> {
        self.sent.wait()?;
        self.received.wait()?;
        Ok(self.into)
    }
}
