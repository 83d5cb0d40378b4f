//! Cross entropy in fp32 at labelled positions, over a vocabulary that may be split among ranks.

use crate::autograd::one;
use crate::comm::{ProcessGroup, Reduce};
use crate::effects::{Effects, GemmGroup, GemmMeter};
use crate::error::Result;
use crate::nn::TensorRegion;
use crate::param_sync::Weight;
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::{Kind, Tensor};

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
        let labels_t = labels_bs.flatten(0, -1);
        let labelled_t = labels_t.ge(0).nonzero().flatten(0, -1);
        if labelled_t.numel() == 0 {
            return Ok(self.always_backward.then(|| hidden_bsh.narrow(1, 0, 0).sum(Kind::Float)));
        }
        let hidden_th = self.region.enter(hidden_bsh)?.flatten(0, 1).index_select(0, &labelled_t);
        let logits_tv = self.local_logits(&hidden_th)?;
        let targets_t = labels_t.index_select(0, &labelled_t) - self.start;
        let entropy = CrossEntropy {
            group: self.region.group().clone(),
            targets_t,
            probabilities_tv: Tensor::new(),
            mine_t: Tensor::new(),
        };
        Ok(Some(one(apply(entropy, &[&logits_tv])?)?))
    }

    fn local_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let weight_vh = self.weight_vh.get()?.narrow(0, 0, self.len);
        let logits = hidden.linear(&weight_vh, None::<Tensor>);
        self.meter.linear(hidden, &weight_vh, &logits);
        Ok(logits.to_kind(Kind::Float))
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
