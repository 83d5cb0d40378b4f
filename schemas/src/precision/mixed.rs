//! Settings of the mixed precision plugin.

use super::{Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, LossScale, Precision, TorchDtype};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numeric precision of a run: one configuration for all parts of the model. The names and defaults are those of NeMo's
/// `nl.MegatronMixedPrecision`; `fp8_emulate` and the `fp8_vision` fields are this program's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MixedPrecision {
    /// Precision of weights and activations; master weights and moments are always fp32.
    pub precision: Precision,
    /// Data type of the weights; `null` follows `precision`, and another one than that of `precision` is refused.
    pub params_dtype: Option<TorchDtype>,
    /// Data type of activations between pipeline stages; `null` follows `precision`, another one is refused.
    pub pipeline_dtype: Option<TorchDtype>,
    /// Changes nothing in half precision: weights are stored in the data type of `precision`, so that linears need no autocast.
    /// Must be false with `32`.
    pub autocast_enabled: bool,
    /// Data type of autocast; `null` follows `precision`, another one is refused.
    pub autocast_dtype: Option<TorchDtype>,
    /// Sends gradients in fp32 when they are reduced over data-parallel ranks; false sends them in the data type of the
    /// weights.
    pub grad_reduce_in_fp32: bool,
    /// FP8 formats of the language model's linears; `null` disables FP8.
    pub fp8: Option<Fp8Format>,
    /// Scaling of FP8 tensors.
    pub fp8_recipe: Fp8Recipe,
    /// With `delayed`: scales are divided by 2 to this power.
    pub fp8_margin: u32,
    /// With `delayed`: number of steps between scale updates.
    pub fp8_interval: u64,
    /// With `delayed`: number of steps of the amax history.
    pub fp8_amax_history_len: u32,
    /// With `delayed`: amax that a scale is computed from.
    pub fp8_amax_compute_algo: Fp8AmaxComputeAlgo,
    /// Computes weight gradients from FP8 operands; false computes them in bf16.
    pub fp8_wgrad: bool,
    /// Must be false: the attention core is computed in bf16.
    pub fp8_dot_product_attention: bool,
    /// Must be false: the attention core is computed in bf16.
    pub fp8_multi_head_attention: bool,
    /// Older name of `fp8_param_gather`; both may be set to the same value.
    pub fp8_params: Option<bool>,
    /// Gathers weights in FP8 with the distributed optimizer; `null`: false.
    pub fp8_param_gather: Option<bool>,
    /// Keeps the first and last layers of the language model in bf16; not with `delayed`.
    pub first_last_layers_bf16: bool,
    /// With `first_last_layers_bf16`: number of first layers in bf16.
    pub num_layers_at_start_in_bf16: u32,
    /// With `first_last_layers_bf16`: number of last layers in bf16.
    pub num_layers_at_end_in_bf16: u32,
    /// Must be false: weights in MXFP8 are gathered in bf16.
    pub reuse_grad_buf_for_mxfp8_param_ag: bool,
    /// Computes FP8 where the hardware has none, slowly; without it such hardware is refused. A CPU has none.
    pub fp8_emulate: bool,
    /// Computes the vision encoder's linears in FP8, too.
    pub fp8_vision_model: bool,
    /// Computes the projector's linears in FP8, too.
    pub fp8_vision_projection: bool,
    /// With `16-mixed`: a constant loss scale; `null` adapts it.
    pub fp16_loss_scale: Option<f64>,
    /// With `16-mixed`: first loss scale.
    pub fp16_initial_loss_scale: f64,
    /// With `16-mixed`: smallest loss scale.
    pub fp16_min_loss_scale: f64,
    /// With `16-mixed`: number of steps without overflow after which the loss scale doubles.
    pub fp16_loss_scale_window: u64,
    /// With `16-mixed`: number of overflows since the loss scale last doubled from which on each one halves it.
    pub fp16_hysteresis: u32,
}

impl Default for MixedPrecision {
    fn default() -> Self {
        Self {
            precision: Precision::Bf16Mixed,
            params_dtype: None,
            pipeline_dtype: None,
            autocast_enabled: false,
            autocast_dtype: None,
            grad_reduce_in_fp32: true,
            fp8: None,
            fp8_recipe: Fp8Recipe::Delayed,
            fp8_margin: 0,
            fp8_interval: 1,
            fp8_amax_history_len: 1,
            fp8_amax_compute_algo: Fp8AmaxComputeAlgo::MostRecent,
            fp8_wgrad: true,
            fp8_dot_product_attention: false,
            fp8_multi_head_attention: false,
            fp8_params: None,
            fp8_param_gather: None,
            first_last_layers_bf16: false,
            num_layers_at_start_in_bf16: 0,
            num_layers_at_end_in_bf16: 0,
            reuse_grad_buf_for_mxfp8_param_ag: false,
            fp8_emulate: false,
            fp8_vision_model: false,
            fp8_vision_projection: false,
            fp16_loss_scale: None,
            fp16_initial_loss_scale: 4_294_967_296.0,
            fp16_min_loss_scale: 1.0,
            fp16_loss_scale_window: 1000,
            fp16_hysteresis: 2,
        }
    }
}

impl MixedPrecision {
    /// Returns the settings of FP8; `None` without FP8.
    pub fn fp8(&self) -> Option<Fp8> {
        let ends = |layers| if self.first_last_layers_bf16 { layers } else { 0 };
        self.fp8.map(|format| Fp8 {
            format,
            recipe: self.fp8_recipe,
            margin: self.fp8_margin,
            interval: self.fp8_interval,
            amax_history_len: self.fp8_amax_history_len,
            amax_compute_algo: self.fp8_amax_compute_algo,
            wgrad: self.fp8_wgrad,
            param_gather: self.param_gather(),
            layers_at_start_in_bf16: ends(self.num_layers_at_start_in_bf16),
            layers_at_end_in_bf16: ends(self.num_layers_at_end_in_bf16),
            emulate: self.fp8_emulate,
            vision_model: self.fp8_vision_model,
            vision_projection: self.fp8_vision_projection,
        })
    }

    /// Returns the settings of the loss scale; `None` except with `16-mixed`.
    pub fn loss_scale(&self) -> Option<LossScale> {
        (self.precision == Precision::Fp16Mixed).then_some(LossScale {
            constant: self.fp16_loss_scale,
            initial: self.fp16_initial_loss_scale,
            min: self.fp16_min_loss_scale,
            window: self.fp16_loss_scale_window,
            hysteresis: self.fp16_hysteresis,
        })
    }

    /// Returns the data type in which gradients are reduced over data-parallel ranks.
    pub fn grad_reduce_dtype(&self) -> TorchDtype {
        if self.grad_reduce_in_fp32 {
            TorchDtype::Float32
        } else {
            self.precision.dtype()
        }
    }

    /// Returns the value of `fp8_param_gather`, by either of its names.
    pub fn param_gather(&self) -> bool {
        self.fp8_param_gather.or(self.fp8_params).unwrap_or(false)
    }
}
