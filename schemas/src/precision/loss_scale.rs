//! Settings of the loss scale of `16-mixed`.

/// Loss scale of fp16 training, as Megatron's `ConstantGradScaler` and `DynamicGradScaler`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Constant scale; `None` adapts it.
    pub constant: Option<f64>,
    /// First scale.
    pub initial: f64,
    /// Smallest scale.
    pub min: f64,
    /// Number of steps without overflow after which the scale doubles.
    pub window: u64,
    /// Number of overflows since the scale last doubled from which on each one halves it.
    pub hysteresis: u32,
}
