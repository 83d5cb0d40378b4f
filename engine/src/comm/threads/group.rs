//! Collectives and transfers of a thread group.

use super::shared_group::{Call, SharedGroup};
use crate::comm::process_group::{ProcessGroup, Reduce, Work, describe, write};
use crate::comm_error::CommError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tch::Tensor;

/// Process group of one thread.
#[derive(Debug)]
pub(super) struct ThreadGroup {
    group: Arc<SharedGroup>,
    rank: usize,
    /// Number of collectives that this rank has started.
    started: AtomicU64,
}

impl ThreadGroup {
    pub(super) fn new(group: Arc<SharedGroup>, rank: usize) -> Self {
        Self {
            group,
            rank,
            started: AtomicU64::new(0),
        }
    }

    fn call(&self, operation: &'static str, tensor: &Tensor) -> Call {
        Call {
            operation,
            what: describe(tensor),
            rank: self.rank,
        }
    }

    /// Starts a collective with `tensor`; `finish` gets the tensors of all ranks.
    fn start(&self, operation: &'static str, tensor: &Tensor, finish: impl FnOnce(Vec<Tensor>) + Send + 'static) -> Work {
        let (group, call) = (self.group.clone(), self.call(operation, tensor));
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        group.contribute(number, &call, tensor);
        Work::new(move || {
            finish(group.collect(number, &call)?);
            Ok(())
        })
    }
}

impl ProcessGroup for ThreadGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.members.len()
    }

    fn start_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work, CommError> {
        let operation = match reduce {
            Reduce::Sum => "all_reduce(sum)",
            Reduce::Max => "all_reduce(max)",
        };
        let into = tensor.detach();
        Ok(self.start(operation, tensor, move |inputs| {
            // In rank order, so that all ranks get the same bits.
            let combined = tch::no_grad(|| match reduce {
                Reduce::Sum => inputs.iter().skip(1).fold(inputs[0].copy(), |sum, other| sum + other),
                Reduce::Max => inputs.iter().skip(1).fold(inputs[0].copy(), |max, other| max.maximum(other)),
            });
            write(&into, &combined);
        }))
    }

    fn start_all_gather(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        let into = into.detach();
        Ok(self.start("all_gather", tensor, move |inputs| write(&into, &Tensor::stack(&inputs, 0))))
    }

    fn start_reduce_scatter(&self, into: &Tensor, tensor: &Tensor) -> Result<Work, CommError> {
        let (into, rank) = (into.detach(), self.rank as i64);
        Ok(self.start("reduce_scatter(sum)", tensor, move |inputs| {
            // In rank order, so that a shard has the same bits on every rank that sums it.
            let sum = tch::no_grad(|| inputs.iter().map(|tensor| tensor.select(0, rank)).reduce(|sum, shard| sum + shard));
            sum.into_iter().for_each(|sum| write(&into, &sum));
        }))
    }

    fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, CommError> {
        let into = tensor.detach();
        Ok(self.start("broadcast", tensor, move |inputs| write(&into, &inputs[root])))
    }

    fn send(&self, tensor: &Tensor, to: usize, tag: u32) -> Result<Work, CommError> {
        self.group.send(self.rank, to, tag, tensor);
        Ok(Work::done())
    }

    fn recv(&self, into: &Tensor, from: usize, tag: u32) -> Result<Work, CommError> {
        let (group, call, into) = (self.group.clone(), self.call("recv", into), into.detach());
        Ok(Work::new(move || {
            let sent = group.recv(from, tag, &call)?;
            if (sent.kind(), sent.size()) != (into.kind(), into.size()) {
                return Err(CommError::Mismatch {
                    group: group.name.clone(),
                    details: vec![
                        format!("rank {from} sends {}", describe(&sent)),
                        format!("rank {} expects {}", call.rank, call.what),
                    ],
                });
            }
            write(&into, &sent);
            Ok(())
        }))
    }
}
