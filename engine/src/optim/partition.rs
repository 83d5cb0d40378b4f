//! How gradients, master weights and moments are shared out over the ranks that hold the same parameters.

use crate::comm::{Collective, Mesh};
use crate::parameters::Parameters;
use neva_layout::{Bucket, Member, buckets, tied_embedding};
use neva_schemas::Finetune;
use std::ops::Range;
use std::sync::Arc;

/// A rank's share of a bucket is a multiple of this many values, so that it starts where a link and a kernel are fast.
const SHARE_MULTIPLE: usize = 64;

/// Buckets of trainable parameters, and which of their values this rank updates: all of them, or with a distributed
/// optimizer (ZeRO-1, arXiv:1910.02054) one of as many runs of equal length as there are ranks.
#[derive(Debug, Clone)]
pub struct Partition {
    buckets: Vec<Bucket>,
    /// Bucket of each parameter, and its place there.
    places: Vec<(usize, Member)>,
    replicas: Arc<dyn Collective>,
    distributed: bool,
    tied: Option<usize>,
    first: bool,
}

impl Partition {
    /// The same on all ranks that hold the same parameters, and on all ranks of a tensor group.
    pub fn new(parameters: &Parameters, finetune: &Finetune, mesh: &Mesh) -> Self {
        let ddp = &finetune.trainer.strategy.ddp;
        let replicas = mesh.replicas().clone();
        let distributed = ddp.use_distributed_optimizer && replicas.size() > 1;
        let numels: Vec<_> = parameters.trainable().map(|parameter| parameter.tensor.numel()).collect();
        // The two ends of a pipeline have different parameters beside the tied one: in a bucket to itself, each rank
        // of either end has the same share of it.
        let tied = tied_embedding(finetune.model.llava()).filter(|_| mesh.ends().size() > 1);
        let tied = tied.and_then(|tied| parameters.trainable().position(|parameter| parameter.spec.name == tied));
        let multiple = if distributed { replicas.size() * SHARE_MULTIPLE } else { 1 };
        let size = usize::try_from(ddp.bucket_size).unwrap_or(usize::MAX);
        let buckets = buckets(&numels, tied, size, multiple);
        let members = buckets
            .iter()
            .enumerate()
            .flat_map(|(bucket, Bucket { members, .. })| members.iter().map(move |member| (bucket, *member)));
        let mut places: Vec<_> = members.collect();
        places.sort_by_key(|(_, member)| member.index);
        Self {
            buckets,
            places,
            replicas,
            distributed,
            tied,
            first: mesh.ends().rank() == 0,
        }
    }

    /// The buckets, in the order in which a backward pass fills them.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Bucket of a parameter, and its place there.
    pub(super) fn place(&self, index: usize) -> (usize, Member) {
        self.places[index]
    }

    /// The ranks that hold the same parameters.
    pub(super) fn replicas(&self) -> &Arc<dyn Collective> {
        &self.replicas
    }

    /// Whether each rank updates its share only.
    pub fn is_distributed(&self) -> bool {
        self.distributed
    }

    /// Number of the parameter that another stage of the pipeline holds too.
    pub(super) fn tied(&self) -> Option<usize> {
        self.tied
    }

    /// Of the ranks that hold the same values of a parameter along data, context and pipeline, how many update them; 0
    /// where another stage counts them.
    pub(super) fn copies(&self, index: usize) -> usize {
        match self.tied {
            Some(tied) if tied == index && !self.first => 0,
            _ if self.distributed => 1,
            _ => self.replicas.size(),
        }
    }

    /// Values of a bucket that this rank updates.
    pub(super) fn share(&self, bucket: usize) -> Range<usize> {
        let len = self.buckets[bucket].len;
        if !self.distributed {
            return 0..len;
        }
        let each = len / self.replicas.size();
        self.replicas.rank() * each..(self.replicas.rank() + 1) * each
    }

    /// Values of a flattened parameter that this rank updates; perhaps none.
    pub(super) fn own(&self, index: usize) -> Range<usize> {
        let (bucket, Member { start, numel, .. }) = self.place(index);
        let share = self.share(bucket);
        let within = |at: usize| at.saturating_sub(start).min(numel);
        within(share.start)..within(share.end)
    }
}
