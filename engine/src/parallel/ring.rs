//! Ring exchange of keys and values among context-parallel ranks (ring attention, arXiv:2310.01889).

use crate::comm::{CommError, ProcessGroup, Work};
use neva_torch_ffi::BoxError;
use std::sync::Arc;
use tch::{Kind, TchError, Tensor};

/// One exchange around the ring. Each rank computes with a tensor while sending it to the next rank. In step `i` a rank
/// holds the tensor of the rank `i` before it.
pub(super) struct Ring {
    group: Arc<dyn ProcessGroup>,
    call: u32,
}

/// Kind of a transferred tensor.
#[derive(Clone, Copy)]
enum Payload {
    Forward,
    Backward,
    Gradient,
}

impl Ring {
    /// Creates the ring. No other call with transfers in flight has the number `call`.
    pub(super) fn new(group: Arc<dyn ProcessGroup>, call: u32) -> Self {
        Self { group, call }
    }

    /// Calls `attend` with each rank's keys and values, this rank's own first.
    pub(super) fn forward(&self, own: Tensor, mut attend: impl FnMut(usize, &Tensor) -> Result<(), TchError>) -> Result<(), BoxError> {
        let mut here = own;
        for step in 0..self.group.size() {
            let next = self.send_unless_last(&here, Payload::Forward, step)?;
            attend(self.owner(step), &here)?;
            if let Some(next) = next {
                here = next.wait()?;
            }
        }
        Ok(())
    }

    /// Calls `attend` with each rank's keys and values again, and a tensor to which it adds this rank's partial sum of
    /// their gradient. Returns the gradient of `own`, in fp32.
    ///
    /// The gradient of a rank's keys starts at the next rank and follows the keys one step later. When every rank has
    /// added its partial sum, it returns to the owner, which adds its own.
    pub(super) fn backward(
        &self,
        own: Tensor,
        mut attend: impl FnMut(usize, &Tensor, &Tensor) -> Result<(), TchError>,
    ) -> Result<Tensor, BoxError> {
        let options = (Kind::Float, own.device());
        let mut total = Tensor::f_zeros(own.size(), options)?;
        let mut here = own;
        let mut follower: Option<RingTransfer> = None;
        for step in 0..self.group.size() {
            let next = self.send_unless_last(&here, Payload::Backward, step)?;
            if step == 0 {
                attend(self.owner(step), &here, &total)?;
            } else {
                let mut partial = Tensor::f_zeros(here.size(), options)?;
                attend(self.owner(step), &here, &partial)?;
                if let Some(before) = follower.take() {
                    let _ = partial.f_add_(&before.wait()?)?;
                }
                follower = Some(self.send_to_next(&partial, Payload::Gradient, step)?);
            }
            if let Some(next) = next {
                here = next.wait()?;
            }
        }
        if let Some(home) = follower {
            let _ = total.f_add_(&home.wait()?)?;
        }
        Ok(total)
    }

    /// Returns the owner of the present keys in a step.
    fn owner(&self, step: usize) -> usize {
        (self.group.rank() + self.group.size() - step) % self.group.size()
    }

    /// Sends the tensor to the next rank, except in the last step.
    fn send_unless_last(&self, here: &Tensor, payload: Payload, step: usize) -> Result<Option<RingTransfer>, BoxError> {
        let last = step + 1 == self.group.size();
        (!last).then(|| self.send_to_next(here, payload, step)).transpose()
    }

    fn send_to_next(&self, here: &Tensor, payload: Payload, step: usize) -> Result<RingTransfer, BoxError> {
        let (rank, ranks) = (self.group.rank(), self.group.size());
        let tag = self.tag(payload, step);
        let into = here.f_empty_like()?;
        Ok(RingTransfer {
            sent: self.group.send(here, (rank + 1) % ranks, tag)?,
            received: self.group.recv(&into, (rank + ranks - 1) % ranks, tag)?,
            _from: here.shallow_clone(),
            into,
        })
    }

    /// Returns a tag that is distinct for each call, payload and step. Call numbers wrap around after hundreds of
    /// millions of transfers.
    fn tag(&self, payload: Payload, step: usize) -> u32 {
        let ranks = self.group.size() as u32;
        let each = 3 * ranks;
        (self.call % (i32::MAX as u32 / each)) * each + payload as u32 * ranks + step as u32
    }
}

/// Transfer of a tensor to the next rank, and of one from the previous rank.
struct RingTransfer {
    sent: Work,
    received: Work,
    /// Must live until it is sent.
    _from: Tensor,
    into: Tensor,
}

impl RingTransfer {
    fn wait(self) -> Result<Tensor, CommError> {
        self.sent.wait()?;
        self.received.wait()?;
        Ok(self.into)
    }
}
