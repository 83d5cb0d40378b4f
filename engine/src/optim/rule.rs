//! Update rules of the optimizers, in the formulas of the papers.

use super::master::MasterWeights;
use super::state::State;
use crate::error::{EngineError, Result};
use neva_kernels::Halves;
use neva_schemas::{AdamW, Lion, Optim, Sgd};
use neva_torch_ffi::{AdamW as Kernel, AdamWSlot, fused_adamw_};
use tch::{Device, Kind, Tensor, no_grad};

/// Weights and their gradient in fp32; flat.
pub(super) struct Slot<'a> {
    pub(super) state: &'a State,
    pub(super) grad: &'a Tensor,
}

/// Updates the slots' weights, moments and step counts.
pub(super) fn update(config: &Optim, lr: f64, weight_decay: f64, slots: &[Slot<'_>]) -> Result<()> {
    match config {
        Optim::AdamW(config) => return adamw(config, lr, weight_decay, slots),
        Optim::Sgd(config) => no_grad(|| slots.iter().try_for_each(|slot| sgd(config, lr, weight_decay, slot))),
        Optim::Lion(config) => no_grad(|| slots.iter().try_for_each(|slot| lion(config, lr, weight_decay, slot))),
    }?;
    no_grad(|| {
        slots
            .iter()
            .try_for_each(|slot| slot.state.step.shallow_clone().f_add_scalar_(1).map(drop))
    })?;
    Ok(())
}

/// Updates as `torch.optim.AdamW(fused=True)` (arXiv:1711.05101).
fn adamw(config: &AdamW, lr: f64, weight_decay: f64, slots: &[Slot<'_>]) -> Result<()> {
    let kernel = Kernel {
        lr,
        beta1: config.betas.0,
        beta2: config.betas.1,
        eps: config.eps,
        weight_decay,
        maximize: false,
    };
    let mut whole = Vec::new();
    let mut block: Option<Tensor> = None;
    for Slot { state, grad } in slots {
        let [(_, exp_avg), (_, exp_avg_sq)] = &state.moments[..] else {
            return Err(EngineError::Bug("AdamW has two moments".into()));
        };
        let slot = |param| AdamWSlot {
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            step: &state.step,
        };
        match &state.master {
            MasterWeights::Whole(own) => whole.push(slot(own)),
            MasterWeights::Split(halves) => {
                let block = match &block {
                    Some(block) => block,
                    None => block.insert(Tensor::f_empty([block_len()], (Kind::Float, Device::Cpu))?),
                };
                adamw_in_blocks(&kernel, halves, &slot(halves.high()), block)?;
            }
        }
    }
    Ok(fused_adamw_(&kernel, &whole, None)?)
}

/// Returns the number of values of a block, which stay in the cache between joining, update and splitting.
fn block_len() -> i64 {
    i64::from(tch::get_num_threads().max(1)) << 17
}

/// Updates master weights in halves block by block. `block` has room for the values of one.
fn adamw_in_blocks(kernel: &Kernel, halves: &Halves, slot: &AdamWSlot<'_>, block: &Tensor) -> Result<()> {
    let (numel, most) = (slot.param.size1()?, block.size1()?);
    for start in (0..numel).step_by(most as usize) {
        let len = most.min(numel - start);
        let at = |flat: &Tensor| flat.f_narrow(0, start, len);
        let (values, halves) = (block.f_narrow(0, 0, len)?, halves.narrow(start, len)?);
        halves.join(&values)?;
        // All blocks belong to one step.
        let step = match start + len == numel {
            true => slot.step.shallow_clone(),
            false => slot.step.copy(),
        };
        let of_block = AdamWSlot {
            param: &values,
            grad: &at(slot.grad)?,
            exp_avg: &at(slot.exp_avg)?,
            exp_avg_sq: &at(slot.exp_avg_sq)?,
            step: &step,
        };
        fused_adamw_(kernel, &[of_block], None)?;
        halves.set(&values)?;
    }
    Ok(())
}

/// Updates as `torch.optim.SGD` without dampening, with decoupled decay.
fn sgd(config: &Sgd, lr: f64, weight_decay: f64, Slot { state, grad }: &Slot<'_>) -> Result<()> {
    let mut weight = decayed(state, lr, weight_decay)?;
    let update = match &state.moments[..] {
        [(_, buffer)] => {
            let buffer = buffer.shallow_clone().f_mul_scalar_(config.momentum)?.f_add_(grad)?;
            if config.nesterov {
                grad.f_add(&buffer.f_mul_scalar(config.momentum)?)?
            } else {
                buffer
            }
        }
        _ => grad.shallow_clone(),
    };
    state.master.set(&weight.f_add_(&update.f_mul_scalar(-lr)?)?)
}

/// Updates as in Algorithm 2 of arXiv:2302.06675.
fn lion(config: &Lion, lr: f64, weight_decay: f64, Slot { state, grad }: &Slot<'_>) -> Result<()> {
    let [(_, exp_avg)] = &state.moments[..] else {
        return Err(EngineError::Bug("Lion has one moment".into()));
    };
    let mut weight = decayed(state, lr, weight_decay)?;
    let direction = exp_avg.f_lerp(grad, 1.0 - config.betas.0)?.f_sign()?;
    let weight = weight.f_add_(&direction.f_mul_scalar(-lr)?)?;
    exp_avg.shallow_clone().f_lerp_(grad, 1.0 - config.betas.1).map(drop)?;
    state.master.set(&weight)
}

/// Applies decoupled decay and returns the weight in fp32.
fn decayed(state: &State, lr: f64, weight_decay: f64) -> Result<Tensor> {
    let mut weight = state.master.values()?;
    if weight_decay > 0.0 {
        weight = weight.f_mul_scalar_(1.0 - lr * weight_decay)?;
    }
    Ok(weight)
}
