//! Metrics of a run: `metrics.jsonl`, TensorBoard event files, an MLflow run, the progress line or bar on a terminal, and
//! plots of curves.
//!
//! This crate does not link libtorch: the engine writes through it, and `neva-run` reads with it.
#![forbid(unsafe_code)]

mod background;
mod console;
mod error;
mod lossy;
mod metrics;
mod metrics_file;
#[cfg(feature = "loggers")]
mod mlflow;
pub mod plot;
mod step_line;
pub mod svg;
#[cfg(feature = "loggers")]
mod tensorboard;
#[cfg(feature = "loggers")]
mod trainer_status;

pub use background::{Background, is_file};
pub use console::Console;
pub use error::TrackError;
pub use lossy::Lossy;
pub use metrics::{StepMetrics, ValidationMetrics};
pub use metrics_file::MetricsFile;
#[cfg(feature = "loggers")]
pub use mlflow::{Mlflow, MlflowCredentials};
pub use step_line::{ParseStepLineError, StepLine};
#[cfg(feature = "loggers")]
pub use tensorboard::TensorBoard;
#[cfg(feature = "loggers")]
pub use trainer_status::{TrainerStatus, TrainerStatusServer};

/// Receives a run's metrics during training.
pub trait Logger: Send {
    /// Logs a completed training step.
    ///
    /// # Errors
    /// The metrics cannot be written.
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrackError>;

    /// Logs a completed validation.
    ///
    /// # Errors
    /// The metrics cannot be written.
    fn validation(&mut self, metrics: &ValidationMetrics) -> Result<(), TrackError>;

    /// Ends the log. It is the last call.
    ///
    /// # Errors
    /// Earlier metrics cannot be written.
    fn finish(&mut self, outcome: Outcome) -> Result<(), TrackError>;
}

/// Outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It completed.
    Finished,
    /// It failed.
    Failed,
    /// A signal stopped it.
    Stopped,
}
