//! Update rules of the optimizers, in the formulas of the papers.

use super::state::State;
use crate::error::{EngineError, Result};
use neva_schemas::{AdamW, Lion, Optim, Sgd};
use neva_torch_ffi::{AdamW as Kernel, AdamWSlot, fused_adamw_};
use tch::{Kind, Tensor, no_grad};

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
    let slots = slots.iter().map(|Slot { state, grad }| {
        let [(_, exp_avg), (_, exp_avg_sq)] = &state.moments[..] else {
            return Err(EngineError::Bug("AdamW has two moments".into()));
        };
        Ok(AdamWSlot {
            param: &state.master,
            grad,
            exp_avg,
            exp_avg_sq,
            step: &state.step,
        })
    });
    Ok(fused_adamw_(&kernel, &slots.collect::<Result<Vec<_>>>()?, None)?)
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
    weight.f_add_(&update.f_mul_scalar(-lr)?).map(drop)?;
    Ok(())
}

/// Updates as in Algorithm 2 of arXiv:2302.06675.
fn lion(config: &Lion, lr: f64, weight_decay: f64, Slot { state, grad }: &Slot<'_>) -> Result<()> {
    let [(_, exp_avg)] = &state.moments[..] else {
        return Err(EngineError::Bug("Lion has one moment".into()));
    };
    let mut weight = decayed(state, lr, weight_decay)?;
    let direction = exp_avg.f_lerp(grad, 1.0 - config.betas.0)?.f_sign()?;
    weight.f_add_(&direction.f_mul_scalar(-lr)?).map(drop)?;
    exp_avg.shallow_clone().f_lerp_(grad, 1.0 - config.betas.1).map(drop)?;
    Ok(())
}

/// Applies decoupled decay and returns a handle of the weight.
fn decayed(state: &State, lr: f64, weight_decay: f64) -> Result<Tensor> {
    debug_assert_eq!(state.master.kind(), Kind::Float);
    let mut weight = state.master.shallow_clone();
    if weight_decay > 0.0 {
        weight = weight.f_mul_scalar_(1.0 - lr * weight_decay)?;
    }
    Ok(weight)
}
