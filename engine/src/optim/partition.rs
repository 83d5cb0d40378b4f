//! Partition of gradients, master weights and moments among the ranks of the DP-CP group.

use crate::comm::{Mesh, ProcessGroup};
use crate::parameters::{Parameter, Parameters};
use crate::precision::kind;
use neva_layout::{Bucket, Fp8Linears, Member, Stage, buckets};
use neva_schemas::Finetune;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use tch::Kind;

/// Shard lengths are a multiple of this number of values, for aligned transfers and kernels.
const SHARD_MULTIPLE: usize = 64;

/// Buckets of trainable parameters, and the values in them that this rank updates: all of them, or with a distributed
/// optimizer (ZeRO-1, arXiv:1910.02054) one of equal shards.
#[derive(Debug, Clone)]
pub struct Partition {
    buckets: Vec<Bucket>,
    /// Bucket of each parameter, and its location there.
    locations: Vec<(usize, Member)>,
    dp_cp: Arc<dyn ProcessGroup>,
    distributed: bool,
    tied: Option<usize>,
    first: bool,
    /// Whether each parameter is gathered in FP8.
    in_fp8: Vec<bool>,
    reduce_kind: Kind,
    with_others: bool,
}

impl Partition {
    /// Creates the partition, the same on all ranks of a DP-CP group and of a tensor-parallel group.
    pub fn new(parameters: &Parameters, finetune: &Finetune, mesh: &Mesh) -> Self {
        let ddp = &finetune.trainer.strategy.ddp;
        let dp_cp = mesh.dp_cp_group().clone();
        let distributed = ddp.use_distributed_optimizer && dp_cp.size() > 1;
        let numels: Vec<_> = parameters.trainable().map(|parameter| parameter.tensor.numel()).collect();
        // First and last stage have different parameters besides the tied embedding. With its own bucket, it is split
        // in the same way on both.
        let is_tied = |parameter: &Parameter| parameter.spec.stage == Stage::FirstAndLast;
        let tied = parameters
            .trainable()
            .position(is_tied)
            .filter(|_| mesh.embedding_group().size() > 1);
        let multiple = if distributed { dp_cp.size() * SHARD_MULTIPLE } else { 1 };
        // Alone, nothing is sent, and a gradient takes memory for itself.
        let size = if dp_cp.size() == 1 {
            1
        } else {
            usize::try_from(ddp.bucket_size).unwrap_or(usize::MAX)
        };
        let fp8 = Fp8Linears::of(finetune).filter(|fp8| fp8.settings.param_gather && distributed);
        let is_fp8 = |parameter: &Parameter| fp8.is_some_and(|fp8| fp8.covers(&parameter.spec));
        let in_fp8: Vec<_> = parameters.trainable().map(is_fp8).collect();
        // A bucket has one data type. Those that a backward pass fills first come first, as without FP8.
        let of = |kind: bool| {
            let own: Vec<_> = (0..numels.len()).filter(|index| in_fp8[*index] == kind).collect();
            let tied = own.iter().position(|index| Some(*index) == tied);
            let mut of_kind = buckets(&own.iter().map(|index| numels[*index]).collect::<Vec<_>>(), tied, size, multiple);
            let members = of_kind.iter_mut().flat_map(|bucket| &mut bucket.members);
            members.for_each(|member| member.index = own[member.index]);
            of_kind
        };
        let mut buckets = [of(false), of(true)].concat();
        buckets.sort_by_key(|bucket| Reverse(bucket.members.iter().map(|member| member.index).min()));
        let members = buckets
            .iter()
            .enumerate()
            .flat_map(|(bucket, Bucket { members, .. })| members.iter().map(move |member| (bucket, *member)));
        let mut locations: Vec<_> = members.collect();
        locations.sort_by_key(|(_, member)| member.index);
        Self {
            buckets,
            locations,
            dp_cp,
            distributed,
            tied,
            first: mesh.embedding_group().rank() == 0,
            in_fp8,
            with_others: mesh.world().size() > 1,
            reduce_kind: kind(finetune.trainer.mixed_precision().grad_reduce_dtype()),
        }
    }

    /// Returns the buckets, in the order in which a backward pass fills them.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Returns the bucket of a parameter, and its location there.
    pub(super) fn location(&self, index: usize) -> (usize, Member) {
        self.locations[index]
    }

    /// Returns whether the weights of a bucket are gathered in FP8.
    pub fn is_gathered_in_fp8(&self, bucket: usize) -> bool {
        self.buckets[bucket].members.iter().all(|member| self.in_fp8[member.index])
    }

    /// Returns the group of the ranks that hold the same parameters.
    pub(super) fn dp_cp_group(&self) -> &Arc<dyn ProcessGroup> {
        &self.dp_cp
    }

    /// Returns whether each rank updates only its shard.
    pub fn is_distributed(&self) -> bool {
        self.distributed
    }

    /// Returns whether there are other ranks, which reduce gradients together with this one.
    pub(super) fn with_others(&self) -> bool {
        self.with_others
    }

    /// Returns the data type in which gradients are sent.
    pub(super) fn reduce_kind(&self) -> Kind {
        self.reduce_kind
    }

    /// Returns the number of the tied embedding, which another pipeline stage also holds.
    pub(super) fn tied(&self) -> Option<usize> {
        self.tied
    }

    /// Returns how many ranks of the DP-CP group update the same values of a parameter; 0 if another stage counts them.
    pub(super) fn copies(&self, index: usize) -> usize {
        match self.tied {
            Some(tied) if tied == index && !self.first => 0,
            _ if self.distributed => 1,
            _ => self.dp_cp.size(),
        }
    }

    /// Returns the range of a bucket that this rank updates.
    pub(super) fn local_shard(&self, bucket: usize) -> Range<usize> {
        let len = self.buckets[bucket].len;
        if !self.distributed {
            return 0..len;
        }
        let each = len / self.dp_cp.size();
        self.dp_cp.rank() * each..(self.dp_cp.rank() + 1) * each
    }

    /// Returns the range of a flattened parameter that this rank updates; may be empty.
    pub(super) fn local_range(&self, index: usize) -> Range<usize> {
        let (bucket, Member { start, numel, .. }) = self.location(index);
        let local_shard = self.local_shard(bucket);
        let within = |at: usize| at.saturating_sub(start).min(numel);
        within(local_shard.start)..within(local_shard.end)
    }
}
