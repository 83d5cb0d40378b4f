//! Models on the ranks of a mesh, and what training leaves of them.

use super::{Samples, lay_out, microbatches, on_mesh};
use neva_engine::checkpoint::{Base, CheckpointFolder, ModelCache, Sources};
use neva_engine::comm::{Axis, Mesh, Reduce};
use neva_engine::parameters::Parameter;
use neva_engine::trainer::{LoadedModel, Trainer};
use neva_schemas::{Finetune, ParallelSizes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Tensor};

/// A model cache that holds nothing.
pub(crate) fn no_cache() -> ModelCache {
    ModelCache { path: PathBuf::new() }
}

/// The model of a run on one rank of a mesh.
pub(crate) fn loaded(finetune: &Finetune, mesh: &Mesh) -> LoadedModel {
    load(finetune, None, mesh)
}

/// The model of a run that goes on from a checkpoint.
pub(crate) fn load(finetune: &Finetune, checkpoint: Option<&CheckpointFolder>, mesh: &Mesh) -> LoadedModel {
    let (base, cache) = (Base::of(finetune, &no_cache()).unwrap(), no_cache());
    let sources = Sources {
        checkpoint,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    LoadedModel::load(finetune, sources, mesh, Device::Cpu).unwrap()
}

pub(crate) fn trainer(finetune: &Finetune, mesh: Mesh) -> Trainer {
    Trainer::new(finetune, loaded(finetune, &mesh), mesh).unwrap()
}

/// What a run left.
pub(crate) struct Trained {
    pub(crate) losses: Vec<f64>,
    /// Norms of the gradients.
    pub(crate) norms: Vec<f64>,
    /// Whole weights by name.
    pub(crate) weights: BTreeMap<String, Tensor>,
}

/// Trains in a layout; all ranks must report the same.
pub(crate) fn train(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, steps: u64) -> Trained {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    let finetune = &finetune;
    let mut ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let step = |step| {
            let batches = microbatches(finetune, samples, &mesh, step);
            let report = trainer.step(&batches, |peak| peak, step).unwrap();
            (report.loss, report.grad_norm)
        };
        let (losses, norms) = (0..steps).map(step).unzip();
        Trained {
            losses,
            norms,
            weights: weights(&trainer),
        }
    });
    let mut first = ranks.remove(0);
    for other in ranks {
        assert_eq!(other.losses, first.losses, "ranks report different losses");
        assert_eq!(other.norms, first.norms, "ranks report different gradient norms");
        // Each stage of a pipeline has its own.
        for (name, weight) in other.weights {
            match first.weights.get(&name) {
                Some(known) => assert!(known.equal(&weight), "ranks hold different `{name}`"),
                None => drop(first.weights.insert(name, weight)),
            }
        }
    }
    first
}

/// Whole weights of a trainer, by name.
pub(crate) fn weights(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let whole = |parameter: &Parameter| {
        (
            parameter.spec.name.clone(),
            whole(parameter, &parameter.tensor.detach(), trainer.mesh()),
        )
    };
    trainer.parameters().iter().map(whole).collect()
}

/// Whole gradients by name, each value from the rank that updates it; those that no rank touched are left out.
pub(crate) fn gradients(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let mut pieces = trainer.optimizer().pieces().peekable();
    let whole = |(parameter, gradient): (&Parameter, Option<&Tensor>)| {
        let name = &parameter.spec.name;
        let piece = pieces.next_if(|piece| piece.spec.name == *name);
        let gradient = gradient?;
        let local = gradient.zeros_like();
        if let Some(piece) = piece {
            let own = |tensor: &Tensor| tensor.view([-1]).narrow(0, piece.range.start as i64, piece.range.len() as i64);
            own(&local).copy_(&own(gradient));
        }
        if trainer.optimizer().is_distributed() {
            trainer.mesh().replicas().all_reduce(&local, Reduce::Sum).unwrap();
        }
        Some((name.clone(), whole(parameter, &local, trainer.mesh())))
    };
    trainer.gradients().filter_map(whole).collect()
}

/// The whole of a tensor of which the tensor-parallel ranks hold parts.
pub(crate) fn whole(parameter: &Parameter, local: &Tensor, mesh: &Mesh) -> Tensor {
    let group = mesh.axis(Axis::Tensor);
    let Some(shard) = parameter.spec.shard(group.rank(), group.size()) else {
        return local.copy();
    };
    let parts = group.all_gather(&local.contiguous()).unwrap();
    let parts: Vec<_> = parts.into_iter().step_by(parameter.spec.copies(group.size())).collect();
    Tensor::cat(&parts, shard.dim as i64).narrow(shard.dim as i64, 0, parameter.spec.shape[shard.dim] as i64)
}
