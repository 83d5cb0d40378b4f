//! Pictures shared out over the ranks that train on the same samples: each encodes its share, and all get the
//! features of all. Where the encoder is the same on every rank, each would do the whole of the work without this; ranks
//! among which it is cut work on the same pictures.

use super::region::one;
use crate::comm::{Axis, Collective, Mesh};
use crate::error::Result;
use neva_schemas::VisionPlacement;
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::Tensor;

/// Who encodes which pictures of a micro-batch.
#[derive(Debug, Clone)]
pub struct PictureShares {
    /// The two axes below together, the tensor varying fastest.
    sharers: Arc<dyn Collective>,
    /// Ranks with pictures of their own; one, where these are the same.
    tensor: Arc<dyn Collective>,
    context: Arc<dyn Collective>,
}

impl PictureShares {
    /// The shares of a mesh's ranks.
    pub fn new(mesh: &Mesh, placement: VisionPlacement) -> Self {
        let alone = Mesh::single();
        let (tensor, context) = (mesh.axis(Axis::Tensor), mesh.axis(Axis::Context));
        let (sharers, tensor, context) = match placement {
            VisionPlacement::Shared => (mesh.sharers(), tensor, context),
            VisionPlacement::Duplicated => (alone.sharers(), alone.axis(Axis::Tensor), alone.axis(Axis::Context)),
            VisionPlacement::Cut => (context, alone.axis(Axis::Tensor), context),
        };
        Self {
            sharers: sharers.clone(),
            tensor: tensor.clone(),
            context: context.clone(),
        }
    }

    /// Of all pictures `[pictures, ..]` of a micro-batch those that this rank encodes: as many on each rank, so that
    /// every rank has a backward pass to take part in. What the last ranks lack is the last picture once more.
    pub fn own(&self, pictures: &Tensor) -> Tensor {
        let ranks = self.sharers.size() as i64;
        if ranks == 1 {
            return pictures.shallow_clone();
        }
        let count = pictures.size()[0];
        let each = (count + ranks - 1) / ranks;
        let first = self.sharers.rank() as i64 * each;
        let indices: Vec<_> = (first..first + each).map(|index| index.min(count - 1)).collect();
        pictures.index_select(0, &Tensor::from_slice(&indices).to_device(pictures.device()))
    }

    /// The features of all `count` pictures, out of those of the pictures that [`Self::own`] gave to each rank.
    ///
    /// # Errors
    /// A collective failed (in the backward pass: out of the call that started it).
    pub fn exchange(&self, own: &Tensor, count: i64) -> Result<Tensor> {
        if self.sharers.size() == 1 {
            return Ok(own.shallow_clone());
        }
        let all = one(apply(Exchange(self.clone()), &[own])?)?;
        // What the last ranks encoded once more is dropped.
        Ok(all.narrow(0, 0, count))
    }
}

/// From each rank's features to those of all, and back from their gradients.
struct Exchange(PictureShares);

impl Function for Exchange {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let parts = self.0.sharers.all_gather(inputs[0])?;
        Ok(vec![Tensor::f_cat(&parts, 0)?])
    }

    /// A rank of the context axis has the gradient of its own places only: they are summed. Ranks of the tensor axis
    /// have the same gradient: each takes its own pictures.
    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let PictureShares { tensor, context, .. } = &self.0;
        let (tensor_ranks, context_ranks) = (tensor.size() as i64, context.size() as i64);
        // [pictures, ..] is [context, tensor, own pictures, ..].
        let by_rank = grad.f_unflatten(0, [context_ranks, tensor_ranks, -1])?;
        let own = by_rank.f_select(1, tensor.rank() as i64)?;
        Ok(vec![Some(context.reduce_scatter(&own)?)])
    }
}
