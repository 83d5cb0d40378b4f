//! Cross entropy in fp32 at labelled positions, over a vocabulary that may be split among ranks.

use crate::autograd::one;
use crate::comm::{ProcessGroup, Reduce};
use crate::effects::{Effects, GemmGroup, GemmKind, GemmMeter};
use crate::error::Result;
use crate::nn::{OutputPositions, TensorRegion};
use crate::param_sync::Weight;
use neva_kernels::{covers_cross_entropy, cross_entropy_};
use neva_torch_ffi::{BoxError, Function, apply, is_grad_enabled};
use std::sync::Arc;
use tch::{Kind, TchError, Tensor};

/// The language model's head: rows `start..` of the vocabulary's weight.
#[derive(Debug)]
pub struct Head {
    weight_vh: Weight,
    start: i64,
    /// Number of real rows. The others are padding, which is excluded from the softmax.
    len: i64,
    region: TensorRegion,
    always_backward: bool,
    meter: GemmMeter,
}

impl Head {
    /// Creates a head. `weight_vh` holds the rows `start..start + len` of the whole vocabulary.
    pub fn new(weight_vh: Weight, start: usize, len: usize, region: TensorRegion) -> Self {
        Self {
            weight_vh,
            start: start as i64,
            len: len as i64,
            region,
            always_backward: false,
            meter: Effects::default().meter(GemmGroup::Head),
        }
    }

    /// Sets whether a backward pass runs even without labelled positions. With context parallelism, other ranks wait for
    /// it.
    pub fn always_backward(self, always_backward: bool) -> Self {
        Self { always_backward, ..self }
    }

    /// Counts the products with the other work of a model.
    pub fn counted(self, effects: &Effects) -> Self {
        let meter = effects.meter(GemmGroup::Head);
        Self { meter, ..self }
    }

    /// Returns logits `[.., v]` in fp32 over the whole vocabulary.
    ///
    /// # Errors
    /// A collective failed.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let local = self.local_logits(&self.region.enter(hidden)?)?;
        if self.region.size() == 1 {
            return Ok(local);
        }
        // Ranks hold different numbers of real rows: gather with padding, then remove it.
        let padding = self.weight_vh.size()[0] - self.len;
        let gathered = self.region.group().all_gather(&local.constant_pad_nd([0, padding]).contiguous())?;
        let widths = self.region.group().all_gather(&Tensor::from(self.len))?;
        let parts: Vec<_> = gathered
            .iter()
            .zip(&widths)
            .map(|(part, width)| part.narrow(-1, 0, width.int64_value(&[])))
            .collect();
        Ok(Tensor::cat(&parts, -1))
    }

    /// Returns the cross entropy summed over all positions of `labels_bs` that are at least 0, a scalar in fp32.
    /// Without such positions, returns `None`, or an empty sum with [`Self::always_backward`].
    ///
    /// # Errors
    /// A collective failed.
    pub fn loss_sum(&self, hidden_bsh: &Tensor, labels_bs: &Tensor) -> Result<Option<Tensor>> {
        let labelled = OutputPositions::labelled(labels_bs);
        if labelled.count() == Some(0) {
            return Ok(self.always_backward.then(|| hidden_bsh.narrow(1, 0, 0).sum(Kind::Float)));
        }
        let hidden_th = labelled.select(&self.region.enter(hidden_bsh)?)?.flatten(0, 1);
        let targets_t = labelled.select(labels_bs)?.flatten(0, 1);
        if self.region.size() == 1 && covers_cross_entropy(hidden_th.kind(), hidden_th.device()) {
            return self.chunked_loss(&hidden_th, targets_t).map(Some);
        }
        let logits_tv = self.local_logits(&hidden_th)?;
        let targets_t = targets_t - self.start;
        let entropy = CrossEntropy {
            group: self.region.group().clone(),
            targets_t,
            probabilities_tv: Tensor::new(),
            mine_t: Tensor::new(),
        };
        Ok(Some(one(apply(entropy, &[&logits_tv])?)?))
    }

    /// Returns the summed cross entropy of `hidden_th`, with all rows of the vocabulary on this rank.
    fn chunked_loss(&self, hidden_th: &Tensor, targets_t: Tensor) -> Result<Tensor> {
        let weight_vh = self.real_rows()?;
        let entropy = ChunkedEntropy {
            targets_t,
            // None in a validation.
            needed: [hidden_th, &weight_vh].map(|input| is_grad_enabled() && input.requires_grad()),
            meter: self.meter.clone(),
            kind: hidden_th.kind(),
            grads: [None, None],
        };
        one(apply(entropy, &[hidden_th, &weight_vh])?)
    }

    /// Returns the weight without padding: itself if there is none, since the gradient of a view is a copy of the whole.
    fn real_rows(&self) -> Result<Tensor> {
        let weight_vh = self.weight_vh.get()?;
        Ok(match weight_vh.size()[0] == self.len {
            true => weight_vh.shallow_clone(),
            false => weight_vh.narrow(0, 0, self.len),
        })
    }

    fn local_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let weight_vh = self.real_rows()?;
        let logits = hidden.linear(&weight_vh, None::<Tensor>);
        self.meter.linear(hidden, &weight_vh, &logits);
        Ok(logits.to_kind(Kind::Float))
    }
}

/// Bytes of logits that exist at a time.
const CHUNK: i64 = 16 << 20;

/// Head and cross entropy, summed, of some positions at a time: the logits of a chunk become their gradients in place, and
/// these the gradients of the hidden states and of the weight, before the next chunk. So the logits of all positions never
/// exist together. The backward pass multiplies by the gradient of the sum.
struct ChunkedEntropy {
    targets_t: Tensor,
    /// Gradients that are needed: of the hidden states, and of the weight.
    needed: [bool; 2],
    meter: GemmMeter,
    kind: Kind,
    grads: [Option<Tensor>; 2],
}

impl ChunkedEntropy {
    /// Adds the gradient of a chunk's weight, in fp32 if there are several chunks.
    fn add_weight_grad(&mut self, grad: Tensor, only: bool) -> Result<(), BoxError> {
        self.grads[1] = Some(match self.grads[1].take() {
            Some(mut sum) => sum.f_add_(&grad)?,
            None if only => grad,
            None => grad.f_to_kind(Kind::Float)?,
        });
        Ok(())
    }
}

impl Function for ChunkedEntropy {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let (hidden_th, weight_vh) = (inputs[0], inputs[1]);
        let ([t, h], v) = (<[i64; 2]>::try_from(hidden_th.size()).unwrap_or_default(), weight_vh.size()[0]);
        let row = (v * hidden_th.kind().elt_size_in_bytes() as i64).max(1);
        let [hidden_needed, weight_needed] = self.needed;
        // The gradient of a trained weight is as large as the logits of `h` positions: fewer would only make more products.
        let most = if weight_needed { h.max(CHUNK / row) } else { CHUNK / row };
        // Chunks alike, each a multiple of 32 positions.
        let chunks = (t + most.max(32) - 1) / most.max(32);
        let rows = (t / chunks.max(1) + 31) / 32 * 32;
        if hidden_needed {
            self.grads[0] = Some(hidden_th.f_empty_like()?);
        }
        let mut losses = Vec::new();
        for start in (0..t).step_by(rows as usize) {
            let len = rows.min(t - start);
            let hidden_ch = hidden_th.f_narrow(0, start, len)?;
            let logits_cv = hidden_ch.f_linear(weight_vh, None::<Tensor>)?;
            let needed = hidden_needed || weight_needed;
            losses.push(cross_entropy_(&logits_cv, &self.targets_t.f_narrow(0, start, len)?, needed)?);
            let products = 1 + usize::from(hidden_needed) + usize::from(weight_needed);
            for _ in 0..products {
                self.meter.product(GemmKind::of(hidden_th.kind()), [len, h, v]);
            }
            if let Some(grad_th) = &self.grads[0] {
                grad_th.f_narrow(0, start, len)?.f_copy_(&logits_cv.f_matmul(weight_vh)?)?;
            }
            if weight_needed {
                self.add_weight_grad(logits_cv.f_tr()?.f_matmul(&hidden_ch)?, len == t)?;
            }
        }
        Ok(vec![Tensor::f_cat(&losses, 0)?.f_sum(Kind::Float)?])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        // `grad` is in fp32, a scalar: the product has the gradient's own kind. In place, since nothing else reads it.
        let scaled = |own: Tensor| -> Result<Tensor, TchError> { own.shallow_clone().f_mul_(grad)?.f_to_kind(self.kind) };
        let own = self.grads.each_mut().map(Option::take);
        Ok(own.into_iter().map(|own| own.map(scaled).transpose()).collect::<Result<_, _>>()?)
    }
}

/// Megatron's vocabulary-parallel cross entropy, summed. It needs three small reductions, and no rank holds all logits.
struct CrossEntropy {
    group: Arc<dyn ProcessGroup>,
    /// Targets relative to this rank's first row; outside of `0..v` if another rank holds the row.
    targets_t: Tensor,
    probabilities_tv: Tensor,
    mine_t: Tensor,
}

impl Function for CrossEntropy {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let logits_tv = inputs[0];
        let [t, v] = <[i64; 2]>::try_from(logits_tv.size()).map_err(|size| format!("logits of shape {size:?}"))?;
        let options = (Kind::Float, logits_tv.device());
        // The last rank may hold padding only.
        let max_t = if v == 0 {
            Tensor::full([t], f64::NEG_INFINITY, options)
        } else {
            logits_tv.amax([1], false)
        };
        self.group.all_reduce(&max_t, Reduce::Max)?;
        let shifted_tv = logits_tv - max_t.unsqueeze(1);
        let exp_tv = shifted_tv.exp();
        let sum_t = exp_tv.sum_dim_intlist([1].as_slice(), false, Kind::Float);
        self.group.all_reduce(&sum_t, Reduce::Sum)?;
        self.mine_t = self.targets_t.ge(0).logical_and(&self.targets_t.lt(v));
        let target_t = if v == 0 {
            Tensor::zeros([t], options)
        } else {
            let index_t = self.targets_t.clamp(0, v - 1);
            shifted_tv.gather(1, &index_t.unsqueeze(1), false).squeeze_dim(1) * self.mine_t.to_kind(Kind::Float)
        };
        self.group.all_reduce(&target_t, Reduce::Sum)?;
        self.probabilities_tv = exp_tv / sum_t.unsqueeze(1);
        Ok(vec![(sum_t.log() - target_t).sum(Kind::Float)])
    }

    fn backward(&mut self, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(grad) = &grads[0] else { return Ok(vec![None]) };
        let v = self.probabilities_tv.size()[1];
        // softmax - one_hot(target). A target of another rank subtracts 0.
        let mut difference_tv = self.probabilities_tv.shallow_clone();
        if v > 0 {
            let index_t1 = self.targets_t.clamp(0, v - 1).unsqueeze(1);
            let ones_t1 = -self.mine_t.to_kind(Kind::Float).unsqueeze(1);
            difference_tv = difference_tv.scatter_add(1, &index_t1, &ones_t1);
        }
        Ok(vec![Some(difference_tv * grad)])
    }
}
