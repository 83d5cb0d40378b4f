//! What a run leaves for its readers: `metrics.jsonl`, TensorBoard's event files, an MLflow server's record,
//! the line or the bar on a terminal, and curves as a picture.
//!
//! Torch-free: the engine writes through this crate, and `neva-run` reads with it.
#![forbid(unsafe_code)]

mod console;
mod error;
mod metrics;
mod metrics_file;
#[cfg(feature = "loggers")]
mod mlflow;
pub mod plot;
mod step_line;
#[cfg(feature = "loggers")]
mod tensorboard;

pub use console::Console;
pub use error::TrackError;
pub use metrics::{StepMetrics, ValidationMetrics};
pub use metrics_file::MetricsFile;
#[cfg(feature = "loggers")]
pub use mlflow::{Mlflow, MlflowCredentials};
pub use step_line::{NoStepLine, StepLine};
#[cfg(feature = "loggers")]
pub use tensorboard::TensorBoard;

/// Something that takes a run's metrics as they come.
pub trait Logger: Send {
    /// A training step is done.
    ///
    /// # Errors
    /// It cannot be written down.
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError>;

    /// A validation is done.
    ///
    /// # Errors
    /// It cannot be written down.
    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError>;

    /// The run is over; nothing comes after this.
    ///
    /// # Errors
    /// Something that came before cannot be written down.
    fn finish(&mut self, outcome: Outcome) -> Result<(), TrackError>;
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked for.
    Finished,
    /// It failed.
    Failed,
    /// A signal stopped it.
    Stopped,
}
