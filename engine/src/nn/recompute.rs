//! Activation recomputation (arXiv:1604.06174): a part of the model keeps what goes into it instead of what it computes
//! on the way, and is run again when its gradient is asked for.

use super::{CausalAttention, Segments};
use crate::error::{EngineError, Result};
use crate::parallel::one;
use neva_torch_ffi::{BoxError, Function, apply, grad};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Tensor, no_grad, with_grad};

/// A part of a model that makes hidden states of hidden states.
pub trait Block: Debug + Send + 'static {
    /// What a pass brings besides the hidden states.
    type With: Clone + Send + 'static;

    /// Hidden states of hidden states.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, x_bsh: &Tensor, with: &Self::With) -> Result<Tensor>;
}

/// A part of a model that may be run again in the backward pass.
#[derive(Debug)]
pub struct Recomputed<B> {
    /// Behind a lock for the sake of `Send`: it is used by one thread at a time.
    block: Arc<Mutex<B>>,
    /// Its trained parameters; `None` where everything is kept.
    weights: Option<Vec<Tensor>>,
}

impl<B: Block> Recomputed<B> {
    /// `block`, run again if `weights`, all of its trained parameters, are given.
    pub(super) fn new(block: B, weights: Option<Vec<Tensor>>) -> Self {
        let block = Arc::new(Mutex::new(block));
        Self { block, weights }
    }

    /// What the block makes of `x_bsh`.
    ///
    /// # Errors
    /// A collective failed (in the second run: out of the call that started the backward pass).
    pub fn forward(&self, x_bsh: &Tensor, with: &B::With) -> Result<Tensor> {
        let Some(weights) = &self.weights else {
            return self.block().forward(x_bsh, with);
        };
        let (block, with) = (self.block.clone(), with.clone());
        recomputed(&[x_bsh], weights, move |inputs| lock(&block).forward(&inputs[0], &with))
    }

    /// The block itself.
    pub(super) fn block(&self) -> MutexGuard<'_, B> {
        lock(&self.block)
    }
}

/// A block that panicked is not changed by it.
fn lock<B>(block: &Mutex<B>) -> MutexGuard<'_, B> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attention that keeps queries, keys and values only.
#[derive(Debug)]
pub struct RecomputedAttention(pub Arc<dyn CausalAttention>);

impl CausalAttention for RecomputedAttention {
    fn attend(&self, q_bnsd: &Tensor, k_bnsd: &Tensor, v_bnsd: &Tensor, segments: &Segments) -> Result<Tensor> {
        let (attention, segments) = (self.0.clone(), segments.clone());
        recomputed(&[q_bnsd, k_bnsd, v_bnsd], &[], move |inputs| {
            attention.attend(&inputs[0], &inputs[1], &inputs[2], &segments)
        })
    }
}

/// `run` of `inputs`, which is run again in the backward pass. `weights` are the leaves that it captured: what is not
/// listed gets no gradient.
fn recomputed(inputs: &[&Tensor], weights: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + 'static) -> Result<Tensor> {
    let kept: Vec<_> = inputs.iter().map(|input| input.detach()).collect();
    let output = no_grad(|| run(&kept))?;
    let again = Again {
        output: Some(output),
        inputs: inputs.iter().map(|input| input.requires_grad()).zip(kept).collect(),
        weights: weights.iter().map(Tensor::shallow_clone).collect(),
        run,
    };
    // With the weights as inputs, a part whose hidden states need no gradient, those of a text in front of an adapter,
    // is run again all the same; and each weight's gradient is ready once, whatever else uses it.
    let inputs: Vec<_> = inputs.iter().copied().chain(weights).collect();
    one(apply(again, &inputs)?)
}

struct Again<R> {
    /// Until it has been handed out.
    output: Option<Tensor>,
    /// Whether each needs a gradient, and its value.
    inputs: Vec<(bool, Tensor)>,
    weights: Vec<Tensor>,
    run: R,
}

impl<R: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static> Function for Again<R> {
    fn forward(&mut self, _: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let output = self.output.take();
        Ok(vec![output.ok_or_else(|| EngineError::Bug("the first run was used up".into()))?])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let fresh = |(needed, input): &(bool, Tensor)| input.detach().set_requires_grad(*needed);
        let inputs: Vec<_> = self.inputs.iter().map(fresh).collect();
        let leaves = || inputs.iter().chain(&self.weights);
        let Some(output_grad) = &grads[0] else {
            return Ok(leaves().map(|_| None).collect());
        };
        let output = with_grad(|| (self.run)(&inputs))?;
        let wanted: Vec<_> = leaves().filter(|leaf| leaf.requires_grad()).collect();
        let mut found = grad(&[&output], &[Some(output_grad)], &wanted, false)?.into_iter();
        Ok(leaves()
            .map(|leaf| if leaf.requires_grad() { found.next()? } else { None })
            .collect())
    }
}
