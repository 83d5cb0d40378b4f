//! Param gather of the distributed optimizer: all-gather of the weights after each rank has updated its shard.

use super::fp8_bucket::Fp8Bucket;
use super::partition::Partition;
use crate::comm::{CommError, Mesh, ProcessGroup, Work};
use crate::error::Result;
use crate::fp8::ScalingStates;
use crate::parameters::Parameters;
use std::sync::{Arc, Mutex, PoisonError};
use tch::Tensor;

/// Parameters in flat buckets, which are gathered in place.
#[derive(Debug)]
pub(super) struct ParamGather {
    group: Arc<dyn ProcessGroup>,
    /// Each bucket `[ranks, shard]`, in the parameters' kind.
    buckets: Vec<Tensor>,
    /// Those that are gathered in FP8, by bucket.
    fp8: Vec<Option<Fp8Bucket>>,
    in_flight: Arc<InFlight>,
}

/// Param gathers that were started.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Bucket of each trainable parameter.
    buckets: Vec<usize>,
    flight: Mutex<Flight>,
}

#[derive(Debug)]
struct Flight {
    /// By bucket.
    work: Vec<Option<Gathering>>,
    /// First error of the param gather; every later wait returns it.
    failed: Option<CommError>,
}

/// A bucket that is being gathered.
#[derive(Debug)]
struct Gathering {
    work: Work,
    /// The bucket, if its bytes have to be converted.
    fp8: Option<Fp8Bucket>,
}

impl ParamGather {
    /// Moves the trainable parameters' values into flat buckets. Existing handles of a parameter refer to the new
    /// memory.
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
            buckets.push(flat.f_view([partition.dp_cp_group().size() as i64, -1])?);
        }
        Ok(Self {
            group: partition.dp_cp_group().clone(),
            in_flight: Arc::new(InFlight {
                buckets: (0..all.len()).map(|index| partition.location(index).0).collect(),
                flight: Mutex::new(Flight {
                    work: buckets.iter().map(|_| None).collect(),
                    failed: None,
                }),
            }),
            fp8: buckets.iter().map(|_| None).collect(),
            buckets,
        })
    }

    /// Gathers the partition's FP8 buckets in FP8 from now on, with the scales of `scaling`.
    pub(super) fn gather_in_fp8(
        &mut self,
        parameters: &Parameters,
        partition: &Partition,
        scaling: &ScalingStates,
        mesh: &Mesh,
    ) -> Result<()> {
        let all: Vec<_> = parameters.trainable().collect();
        for (index, values) in self.buckets.iter().enumerate() {
            if partition.is_gathered_in_fp8(index) {
                let members = partition.buckets()[index].members.iter().map(|member| (*member, all[member.index]));
                self.fp8[index] = Some(Fp8Bucket::new(values, members, scaling, mesh)?);
            }
        }
        Ok(())
    }

    /// Returns whether any bucket is gathered in FP8.
    pub(super) fn gathers_in_fp8(&self) -> bool {
        self.fp8.iter().any(Option::is_some)
    }

    /// Starts to gather all buckets, those of the first layers first, as a forward pass needs them.
    pub(super) fn start(&self) -> Result<()> {
        let mut flight = self.in_flight.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for ((bucket, fp8), gathering) in self.buckets.iter().zip(&self.fp8).zip(&mut flight.work).rev() {
            let fp8 = fp8.as_ref().map(Fp8Bucket::quantized).transpose()?;
            let sent = fp8.as_ref().map_or(bucket, Fp8Bucket::bytes);
            let local_shard = sent.f_select(0, self.group.rank() as i64)?;
            let work = self.group.start_all_gather(sent, &local_shard)?;
            *gathering = Some(Gathering { work, fp8 });
        }
        Ok(())
    }

    pub(super) fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }
}

impl InFlight {
    /// Waits for the bucket of a trainable parameter.
    pub(super) fn finish(&self, index: usize) -> Result<()> {
        self.finish_buckets(std::iter::once(self.buckets[index]))
    }

    /// Waits for all buckets.
    pub(super) fn finish_all(&self) -> Result<()> {
        self.finish_buckets(self.buckets.iter().copied())
    }

    fn finish_buckets(&self, buckets: impl Iterator<Item = usize>) -> Result<()> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in buckets {
            let Some(Gathering { work, fp8 }) = flight.work[bucket].take() else {
                continue;
            };
            if let Err(error) = work.wait() {
                flight.failed = Some(error);
            } else if let Some(fp8) = fp8 {
                fp8.dequantize()?;
            }
        }
        match &flight.failed {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }
}
