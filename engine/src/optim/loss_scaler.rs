//! Loss scale of fp16 training (arXiv:1710.03740, section 3.2): Megatron's `ConstantGradScaler` and `DynamicGradScaler`. With
//! a hysteresis of 1 the dynamic scale is that of `torch.amp.GradScaler`.

use neva_schemas::LossScale;
use serde::{Deserialize, Serialize};

/// Factor of the scale after `window` steps without overflow; its inverse is that after an overflow.
const FACTOR: f64 = 2.0;

/// State of the loss scale, which a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossScaleState {
    /// The scale of the next step.
    pub scale: f64,
    /// Steps without overflow since the last overflow or growth.
    pub growth_tracker: u64,
    /// Overflows that may still pass before one halves the scale.
    pub hysteresis_tracker: u32,
}

/// A loss scale and the rule that adapts it. All ranks know of the same overflows, so it is the same on all of them.
#[derive(Debug, Clone)]
pub struct LossScaler {
    settings: LossScale,
    state: LossScaleState,
}

impl LossScaler {
    /// Starts with the first scale of `settings`.
    pub fn new(settings: LossScale) -> Self {
        let state = LossScaleState {
            scale: settings.constant.unwrap_or(settings.initial),
            growth_tracker: 0,
            hysteresis_tracker: settings.hysteresis,
        };
        Self { settings, state }
    }

    /// Continues with the state of a checkpoint; a constant scale stays.
    pub fn restore(&mut self, state: &LossScaleState) {
        if self.settings.constant.is_none() {
            self.state = LossScaleState {
                scale: state.scale.max(self.settings.min),
                hysteresis_tracker: state.hysteresis_tracker.min(self.settings.hysteresis),
                ..state.clone()
            };
        }
    }

    /// Returns the state.
    pub fn state(&self) -> &LossScaleState {
        &self.state
    }

    /// Returns the factor of the loss.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    /// Returns true if the scale is above the smallest one and may be halved.
    pub fn can_fall(&self) -> bool {
        self.settings.constant.is_none() && self.state.scale > self.settings.min
    }

    /// Adapts the scale to the end of a step.
    pub fn update(&mut self, overflow: bool) {
        let LossScale {
            constant,
            min,
            window,
            hysteresis,
            ..
        } = self.settings;
        if constant.is_some() {
            return;
        }
        let state = &mut self.state;
        if overflow {
            state.growth_tracker = 0;
            state.hysteresis_tracker = state.hysteresis_tracker.saturating_sub(1);
            if state.hysteresis_tracker == 0 {
                state.scale = (state.scale / FACTOR).max(min);
            }
            return;
        }
        state.growth_tracker += 1;
        if state.growth_tracker >= window {
            state.growth_tracker = 0;
            state.hysteresis_tracker = hysteresis;
            // As in torch, the scale stays a finite number of fp32.
            if state.scale * FACTOR <= f64::from(f32::MAX) {
                state.scale *= FACTOR;
            }
        }
    }
}
