//! Models on the ranks of a mesh, before and after training.

use super::{Samples, lay_out, microbatches, on_mesh};
use crate::own_family::registry;
use neva_engine::checkpoint::{Base, CheckpointFolder, ModelCache, Sources};
use neva_engine::comm::{Axis, Mesh, Reduce};
use neva_engine::parameters::Parameter;
use neva_engine::trainer::{LoadedModel, Trainer};
use neva_schemas::{Finetune, ParallelSizes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Tensor};

/// Returns an empty model cache.
pub(crate) fn no_cache() -> ModelCache {
    ModelCache::at(PathBuf::new())
}

/// Loads the model of a run on one rank of a mesh.
pub(crate) fn loaded(finetune: &Finetune, mesh: &Mesh) -> LoadedModel {
    load(finetune, None, mesh)
}

/// Loads the model of a run that resumes from a checkpoint.
pub(crate) fn load(finetune: &Finetune, checkpoint: Option<&CheckpointFolder>, mesh: &Mesh) -> LoadedModel {
    let (base, cache) = (Base::of(finetune, &no_cache()).unwrap(), no_cache());
    let sources = Sources {
        checkpoint,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    // With the family of tests/engine/own_family.rs.
    LoadedModel::load(finetune, registry().models(), sources, mesh, Device::Cpu).unwrap()
}

pub(crate) fn trainer(finetune: &Finetune, mesh: Mesh) -> Trainer {
    Trainer::new(finetune, loaded(finetune, &mesh), mesh).unwrap()
}

/// Results of a run.
pub(crate) struct Trained {
    pub(crate) losses: Vec<f64>,
    /// Norms of the gradients.
    pub(crate) norms: Vec<f64>,
    /// Whole weights by name.
    pub(crate) weights: BTreeMap<String, Tensor>,
}

/// Trains in a layout. All ranks must return the same report.
pub(crate) fn train(finetune: &Finetune, samples: &Samples, sizes: ParallelSizes, steps: u64) -> Trained {
    let mut finetune = finetune.clone();
    lay_out(&mut finetune, sizes);
    let finetune = &finetune;
    let mut ranks = on_mesh(sizes, |mesh| {
        let mut trainer = trainer(finetune, mesh.clone());
        let step = |step| {
            let batches = microbatches(finetune, samples, &mesh, step);
            let report = trainer.step(&batches, |peak| peak, step).unwrap();
            (measured(report.loss), measured(report.grad_norm))
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

/// Returns a loss or a norm, or -1 if there is none.
fn measured(value: Option<f64>) -> f64 {
    value.unwrap_or(-1.0)
}

/// Returns the whole weights of a trainer by name.
pub(crate) fn weights(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let whole = |parameter: &Parameter| {
        (
            parameter.spec.name.clone(),
            whole(parameter, &parameter.tensor.detach(), trainer.mesh()),
        )
    };
    // The bytes of a quantised weight are no tensor of its shape; it never changes.
    let plain = trainer.parameters().iter().filter(|parameter| parameter.quantized.is_none());
    plain.map(whole).collect()
}

/// Returns whole gradients by name, each value from the rank that updates it. Omits those that no rank touched.
pub(crate) fn gradients(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let mut pieces = trainer.optimizer().shards().peekable();
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
            trainer.mesh().dp_cp_group().all_reduce(&local, Reduce::Sum).unwrap();
        }
        Some((name.clone(), whole(parameter, &local, trainer.mesh())))
    };
    trainer.gradients().filter_map(whole).collect()
}

/// Gathers the whole tensor from the shards of the tensor-parallel ranks.
pub(crate) fn whole(parameter: &Parameter, local: &Tensor, mesh: &Mesh) -> Tensor {
    let group = mesh.axis(Axis::Tensor);
    let Some(shard) = parameter.spec.shard(group.rank(), group.size()) else {
        return local.copy();
    };
    let parts = group.all_gather(&local.contiguous()).unwrap();
    let parts: Vec<_> = parts.into_iter().step_by(parameter.spec.copies(group.size())).collect();
    Tensor::cat(&parts, shard.dim as i64).narrow(shard.dim as i64, 0, parameter.spec.shape[shard.dim] as i64)
}
