//! What the first rank writes down of a run.

use super::step::Trainer;
use crate::parameters::Parameters;
use crate::error::{EngineError, Result};
use neva_layout::{PartSummary, summary};
use neva_schemas::{Finetune, LaunchPlan, METRICS_FILE, PARAMETERS_FILE, REPORT_FILE, RunReport};
use neva_track::{Logger, MetricsFile, Outcome, StepLine, StepMetrics, ValidationMetrics};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The records of a run; empty on all ranks but the first.
pub(super) struct Records {
    run_dir: PathBuf,
    loggers: Vec<Box<dyn Logger>>,
    is_first: bool,
}

impl Records {
    /// Makes the run's folder what it has to be, and prints and stores what is trained.
    pub(super) fn open(
        plan: &LaunchPlan,
        run_dir: &Path,
        trainer: &Trainer,
        first_step: u64,
        environment: fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut records = Self {
            run_dir: run_dir.to_owned(),
            loggers: Vec::new(),
            is_first: trainer.mesh().is_first(),
        };
        if !records.is_first {
            return Ok(records);
        }
        let checkpoints = run_dir.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(EngineError::io("create", &checkpoints))?;
        let finetune = &plan.run.finetune;
        let table = parameter_table(trainer.parameters(), finetune);
        announce_parameters(&table);
        write_json(&run_dir.join(PARAMETERS_FILE), &table)?;
        records.loggers.push(Box::new(MetricsFile::open(&run_dir.join(METRICS_FILE), first_step)?));
        let _ = environment;
        Ok(records)
    }

    pub(super) fn step(&mut self, metrics: &StepMetrics, total_steps: u64) -> Result<()> {
        for logger in &mut self.loggers {
            logger.step(metrics)?;
        }
        if self.is_first {
            announce(metrics, total_steps);
        }
        Ok(())
    }

    pub(super) fn validation(&mut self, metrics: &ValidationMetrics) -> Result<()> {
        for logger in &mut self.loggers {
            logger.validation(metrics)?;
        }
        if self.is_first {
            announce_validation(metrics);
        }
        Ok(())
    }

    /// The run is over.
    pub(super) fn finish(&mut self, outcome: Outcome, report: &RunReport) -> Result<()> {
        for logger in &mut self.loggers {
            logger.finish(outcome)?;
        }
        if self.is_first { write_json(&self.run_dir.join(REPORT_FILE), report) } else { Ok(()) }
    }

    /// The run failed; what its records say of that is not worth a second failure.
    pub(super) fn fail(&mut self) {
        for logger in &mut self.loggers {
            if let Err(error) = logger.finish(Outcome::Failed) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// What is trained, by part: the effective result of every freeze flag.
fn parameter_table(parameters: &Parameters, finetune: &Finetune) -> Vec<PartSummary> {
    let specs: Vec<_> = parameters.iter().map(|parameter| parameter.spec.clone()).collect();
    summary(&specs, finetune)
}

#[expect(clippy::print_stdout, reason = "a user checks this table before the run goes on for hours")]
fn announce_parameters(table: &[PartSummary]) {
    println!("{:<12}{:>16}{:>16}", "part", "parameters", "trained");
    for line in table {
        let part = format!("{:?}", line.part).to_lowercase();
        println!("{part:<12}{:>16}{:>16}", line.total, line.trainable);
    }
}

#[expect(clippy::print_stdout, reason = "the one line that a user watches")]
fn announce(metrics: &StepMetrics, total: u64) {
    let line = StepLine {
        done: metrics.step + 1,
        total,
        loss: metrics.reduced_train_loss,
        lr: metrics.lr,
        grad_norm: metrics.grad_norm,
        tokens_per_second: metrics.tokens_per_second,
        peak_memory_gib: metrics.peak_memory_gib,
    };
    println!("{line}");
}

#[expect(clippy::print_stdout, reason = "the one line that a user watches")]
fn announce_validation(metrics: &ValidationMetrics) {
    let ValidationMetrics {
        step,
        val_loss,
        val_samples,
        ..
    } = metrics;
    println!("validation after step {}: val_loss {val_loss:.4} over {val_samples} samples", step + 1);
}

fn write_json(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("{} cannot be written: {error}", path.display())))?;
    let aside = path.with_extension("writing");
    std::fs::write(&aside, json)
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(EngineError::io("write", path))
}
