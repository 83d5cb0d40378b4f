//! Images divided among the ranks that train on the same samples. Each rank encodes its own images, and all ranks receive
//! all features. This saves work if every rank holds the whole encoder. Ranks among which the encoder is cut encode the
//! same images.

use super::dropout::CurrentKeys;
use crate::autograd::one;
use crate::comm::{Axis, Mesh, ProcessGroup};
use crate::error::Result;
use crate::profiler::Profiler;
use neva_schemas::VisionPlacement;
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::Tensor;

/// Partition of a microbatch's images among ranks.
#[derive(Debug, Clone)]
pub struct ImagePartition {
    /// Group that divides the images: the ranks of the two groups below, the tensor axis varying fastest.
    group: Arc<dyn ProcessGroup>,
    /// Tensor-parallel ranks with different images; one rank if they have the same images.
    tensor: Arc<dyn ProcessGroup>,
    context: Arc<dyn ProcessGroup>,
    /// Keys of the microbatch, for dropout.
    keys: CurrentKeys,
    profiler: Profiler,
}

impl ImagePartition {
    /// Returns the partition for a mesh.
    pub fn new(mesh: &Mesh, placement: VisionPlacement) -> Self {
        let alone = Mesh::single();
        let (tensor, context) = (mesh.axis(Axis::Tensor), mesh.axis(Axis::Context));
        let (group, tensor, context) = match placement {
            VisionPlacement::Shared => (mesh.tp_cp_group(), tensor, context),
            VisionPlacement::Duplicated => (alone.tp_cp_group(), alone.axis(Axis::Tensor), alone.axis(Axis::Context)),
            VisionPlacement::Cut => (context, alone.axis(Axis::Tensor), context),
        };
        Self {
            group: group.clone(),
            tensor: tensor.clone(),
            context: context.clone(),
            keys: CurrentKeys::default(),
            profiler: mesh.profiler().clone(),
        }
    }

    /// Returns the same partition, which tells dropout the images that are encoded.
    pub(super) fn keyed(self, keys: CurrentKeys) -> Self {
        Self { keys, ..self }
    }

    /// Returns the features of all `images`; this rank encodes its own.
    ///
    /// # Errors
    /// `encode` or a collective failed. In the backward pass the call that started it returns the error.
    pub fn encode(&self, images: &Tensor, encode: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let _vision = self.profiler.span("vision");
        let count = images.size()[0];
        let indices = self.indices(count);
        let own = self.keys.of_images(&indices, || encode(&self.own(images, &indices)))?;
        self.exchange(&own, count)
    }

    /// Returns the indices of the images that this rank encodes, of all `count` of a microbatch. Each rank has the same
    /// number, so that every rank takes part in the backward pass. The last ranks are padded with the last image.
    fn indices(&self, count: i64) -> Vec<i64> {
        let ranks = self.group.size() as i64;
        let each = (count + ranks - 1) / ranks;
        let first = self.group.rank() as i64 * each;
        (first..first + each).map(|index| index.min(count - 1)).collect()
    }

    fn own(&self, images: &Tensor, indices: &[i64]) -> Tensor {
        match self.group.size() {
            1 => images.shallow_clone(),
            _ => images.index_select(0, &Tensor::from_slice(indices).to_device(images.device())),
        }
    }

    /// Gathers the features of all `count` images from the features of each rank's [`Self::own`] images.
    fn exchange(&self, own: &Tensor, count: i64) -> Result<Tensor> {
        if self.group.size() == 1 {
            return Ok(own.shallow_clone());
        }
        let all = one(apply(Exchange(self.clone()), &[own])?)?;
        // Features of padding are dropped.
        Ok(all.narrow(0, 0, count))
    }
}

/// Gathers the features of all ranks; the backward pass reduces their gradients to each rank's own.
struct Exchange(ImagePartition);

impl Function for Exchange {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let features = self.0.group.all_gather(inputs[0])?;
        Ok(vec![Tensor::f_cat(&features, 0)?])
    }

    /// Context-parallel ranks have the gradient of their own positions only, which are summed. Tensor-parallel ranks have
    /// the same gradient, of which each takes its own images.
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let ImagePartition { tensor, context, .. } = &self.0;
        let (tensor_ranks, context_ranks) = (tensor.size() as i64, context.size() as i64);
        // [images, ..] is [context, tensor, own images, ..].
        let by_rank = grad.f_unflatten(0, [context_ranks, tensor_ranks, -1])?;
        let own = by_rank.f_select(1, tensor.rank() as i64)?;
        Ok(vec![Some(context.reduce_scatter(&own)?)])
    }
}
