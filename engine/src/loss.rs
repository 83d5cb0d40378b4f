//! Cross entropy in fp32 over a vocabulary that may be cut, at labelled positions only.

use crate::comm::{Collective, Reduce};
use crate::error::Result;
use crate::parallel::{TensorRegion, one};
use neva_torch_ffi::{BoxError, Function, apply};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The head: rows `start..` of the vocabulary's weight.
#[derive(Debug)]
pub struct Head {
    weight_vh: Tensor,
    start: i64,
    /// Rows that exist; the rest is padding that takes no part in any softmax.
    len: i64,
    region: TensorRegion,
    awaited: bool,
}

impl Head {
    /// `start` and `len` are the rows of the whole vocabulary that `weight_vh` holds.
    pub fn new(weight_vh: Tensor, start: usize, len: usize, region: TensorRegion) -> Self {
        Self {
            weight_vh,
            start: start as i64,
            len: len as i64,
            region,
            awaited: false,
        }
    }

    /// Whether other ranks hold other parts of the same sequences: they wait for this rank's backward pass, also where
    /// none of its own positions is labelled.
    pub fn awaited(self, awaited: bool) -> Self {
        Self { awaited, ..self }
    }

    /// Logits `[.., v]` in fp32 over the whole vocabulary.
    ///
    /// # Errors
    /// A collective failed.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let local = self.local_logits(&self.region.enter(hidden)?);
        if self.region.size() == 1 {
            return Ok(local);
        }
        // Ranks hold different numbers of real rows: gather padded, then cut.
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

    /// Sum of the cross entropy over all positions of `labels_bs` that are at least 0; a scalar in fp32.
    /// `None` where there is no such position: then there is nothing to differentiate, unless the backward pass is
    /// awaited: the sum of nothing takes its place.
    ///
    /// # Errors
    /// A collective failed.
    pub fn loss_sum(&self, hidden_bsh: &Tensor, labels_bs: &Tensor) -> Result<Option<Tensor>> {
        let labels_t = labels_bs.flatten(0, -1);
        let labelled_t = labels_t.ge(0).nonzero().flatten(0, -1);
        if labelled_t.numel() == 0 {
            return Ok(self.awaited.then(|| hidden_bsh.narrow(1, 0, 0).sum(Kind::Float)));
        }
        let hidden_th = self.region.enter(hidden_bsh)?.flatten(0, 1).index_select(0, &labelled_t);
        let logits_tv = self.local_logits(&hidden_th);
        let targets_t = labels_t.index_select(0, &labelled_t) - self.start;
        let entropy = CrossEntropy {
            group: self.region.group().clone(),
            targets_t,
            probabilities_tv: Tensor::new(),
            mine_t: Tensor::new(),
        };
        Ok(Some(one(apply(entropy, &[&logits_tv])?)?))
    }

    fn local_logits(&self, hidden: &Tensor) -> Tensor {
        let weight_vh = self.weight_vh.narrow(0, 0, self.len);
        hidden.linear(&weight_vh, None::<Tensor>).to_kind(Kind::Float)
    }
}

/// Megatron's vocabulary-parallel cross entropy, summed: three small reductions, no rank sees all logits.
struct CrossEntropy {
    group: Arc<dyn Collective>,
    /// Targets relative to this rank's first row; outside `0..v` where another rank holds the row.
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
        // softmax - one_hot(target); a target of another rank subtracts 0.
        let mut difference_tv = self.probabilities_tv.shallow_clone();
        if v > 0 {
            let index_t1 = self.targets_t.clamp(0, v - 1).unsqueeze(1);
            let ones_t1 = -self.mine_t.to_kind(Kind::Float).unsqueeze(1);
            difference_tv = difference_tv.scatter_add(1, &index_t1, &ones_t1);
        }
        Ok(vec![Some(difference_tv * grad)])
    }
}
