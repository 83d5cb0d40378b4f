//! Activation recomputation (arXiv:1604.06174): a block saves its inputs instead of its activations, and is run again in
//! the backward pass.

use super::dropout::CurrentKeys;
use super::outputs::OutputPositions;
use crate::attention::{CausalAttention, Segments};
use crate::autograd::one;
use crate::error::{EngineError, Result};
use neva_torch_ffi::{BoxError, Function, apply, grad};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Tensor, no_grad, with_grad};

/// A block of a model that maps hidden states to hidden states.
pub trait Block: Debug + Send + 'static {
    /// Arguments of a pass besides the hidden states.
    type With: Clone + Send + 'static;

    /// Computes hidden states from hidden states.
    ///
    /// # Errors
    /// A collective failed.
    fn forward(&self, x_bsh: &Tensor, with: &Self::With) -> Result<Tensor>;

    /// Computes the hidden states of `outputs` alone, `[1, t, h]`. By default computes all, and selects.
    ///
    /// # Errors
    /// A collective failed.
    fn forward_at(&self, x_bsh: &Tensor, with: &Self::With, outputs: &OutputPositions) -> Result<Tensor> {
        outputs.select(&self.forward(x_bsh, with)?)
    }
}

/// A block made by [`Build`](super::Build), which may be recomputed in the backward pass.
#[derive(Debug)]
pub struct Submodule<B> {
    /// Locked, because a recomputed block must be `Send`. One thread uses it at a time.
    block: Arc<Mutex<B>>,
    /// Its trained parameters; `None` if all activations are saved.
    weights: Option<Vec<Tensor>>,
    /// Keys of the microbatch, which a recomputation restores.
    keys: CurrentKeys,
}

impl<B: Block> Submodule<B> {
    /// Wraps `block`. It is recomputed if `weights`, all of its trained parameters, are given.
    pub(super) fn new(block: B, weights: Option<Vec<Tensor>>, keys: CurrentKeys) -> Self {
        let block = Arc::new(Mutex::new(block));
        Self { block, weights, keys }
    }

    /// Runs the block on `x_bsh`.
    ///
    /// # Errors
    /// A collective failed. In a recomputation the call that started the backward pass returns the error.
    pub fn forward(&self, x_bsh: &Tensor, with: &B::With) -> Result<Tensor> {
        self.forward_at(x_bsh, with, &OutputPositions::All)
    }

    /// Runs the block on `x_bsh` for the hidden states of `outputs` alone.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_at(&self, x_bsh: &Tensor, with: &B::With, outputs: &OutputPositions) -> Result<Tensor> {
        let Some(weights) = &self.weights else {
            return self.block().forward_at(x_bsh, with, outputs);
        };
        let (block, with, outputs) = (self.block.clone(), with.clone(), outputs.clone());
        let (current, keys) = (self.keys.clone(), self.keys.get());
        recomputed(&[x_bsh], weights, move |inputs| {
            current.with(keys.clone(), || lock(&block).forward_at(&inputs[0], &with, &outputs))
        })
    }

    /// Returns the block.
    pub(super) fn block(&self) -> MutexGuard<'_, B> {
        lock(&self.block)
    }
}

/// Locks a block. A panic does not change a block, so poison is ignored.
fn lock<B>(block: &Mutex<B>) -> MutexGuard<'_, B> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attention that saves queries, keys and values only.
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

/// Computes `run(inputs)`, which is recomputed in the backward pass. `weights` are the leaves that `run` captured; a leaf
/// that is not listed gets no gradient.
fn recomputed(inputs: &[&Tensor], weights: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + 'static) -> Result<Tensor> {
    let saved: Vec<_> = inputs.iter().map(|input| input.detach()).collect();
    let output = no_grad(|| run(&saved))?;
    let node = Recompute {
        output: Some(output),
        inputs: inputs.iter().map(|input| input.requires_grad()).zip(saved).collect(),
        weights: weights.iter().map(Tensor::shallow_clone).collect(),
        run,
    };
    // The weights are inputs of the node. So a block is recomputed even if its hidden states need no gradient, as before
    // the first adapter. And the gradient of each weight is ready once, whatever else uses it.
    let inputs: Vec<_> = inputs.iter().copied().chain(weights).collect();
    one(apply(node, &inputs)?)
}

/// Autograd node of a recomputed function.
struct Recompute<R> {
    /// The output, until it is returned.
    output: Option<Tensor>,
    /// Inputs, each with a flag that is true if it needs a gradient.
    inputs: Vec<(bool, Tensor)>,
    weights: Vec<Tensor>,
    run: R,
}

impl<R: Fn(&[Tensor]) -> Result<Tensor> + Send + 'static> Function for Recompute<R> {
    fn forward(&mut self, _: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let output = self.output.take();
        Ok(vec![
            output.ok_or_else(|| EngineError::Bug("the output was returned already".into()))?,
        ])
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
