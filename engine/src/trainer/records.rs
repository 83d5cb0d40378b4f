//! Records of a run, which the first rank writes.

use super::effect_report::EffectReport;
use super::step::Trainer;
use crate::error::{EngineError, Result};
use neva_layout::{Part, PartSummary, summary};
use neva_schemas::{EFFECTS_FILE, LaunchPlan, METRICS_FILE, PARAMETERS_FILE, REPORT_FILE, Run, RunReport};
use neva_track::{
    Console, Logger, MetricsFile, Mlflow, MlflowCredentials, Outcome, StepLine, StepMetrics, TensorBoard, TrainerStatus,
    TrainerStatusServer, ValidationMetrics, plot,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::slice;

/// Records of a run. Empty on all ranks except the first.
pub(super) struct Records {
    run_dir: PathBuf,
    loggers: Vec<Box<dyn Logger>>,
    /// Present on the first rank only.
    console: Option<Console>,
}

/// Folder of TensorBoard's event files in the run's folder; NeMo's name.
const TENSORBOARD_FOLDER: &str = "tb_logs";

impl Records {
    /// Returns the records of a rank that writes none.
    pub(super) fn none(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            loggers: Vec::new(),
            console: None,
        }
    }

    /// Opens the records of the first rank: creates the run's folder, prints and stores the table of parameters.
    /// `steps` are those from the first of this process to the end of the run.
    pub(super) fn open(
        plan: &LaunchPlan,
        run_dir: &Path,
        trainer: &Trainer,
        steps: Range<u64>,
        environment: fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut records = Self::none(run_dir);
        let mut console = Console::for_rank();
        let checkpoints = run_dir.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(EngineError::io("create", &checkpoints))?;
        let finetune = &plan.run.finetune;
        let table = summary(trainer.specs(), finetune);
        console.write(parameter_text(&table).as_bytes());
        console.write(format!("{}\n", finetune.effective_precision()).as_bytes());
        records.console = Some(console);
        write_json(&run_dir.join(PARAMETERS_FILE), &table)?;
        records
            .loggers
            .push(Box::new(MetricsFile::open(&run_dir.join(METRICS_FILE), steps.start)?));
        if finetune.log.tensorboard {
            let board = TensorBoard::create(&run_dir.join(TENSORBOARD_FOLDER), steps.start)?;
            records.loggers.push(Box::new(board));
        }
        if let Some(config) = &finetune.log.mlflow {
            let credentials = MlflowCredentials::read(environment);
            let server = Mlflow::start(config, &finetune.log.name, &flat(&plan.run)?, credentials);
            records.loggers.push(Box::new(server));
        }
        if let Some(server) = TrainerStatusServer::read(environment) {
            records.loggers.push(Box::new(TrainerStatus::start(server, steps.end)));
        }
        Ok(records)
    }

    pub(super) fn step(&mut self, metrics: &StepMetrics, total_steps: u64) -> Result<()> {
        for logger in &mut self.loggers {
            logger.step(metrics)?;
        }
        if let Some(console) = &mut self.console {
            console.line(&StepLine {
                done: metrics.step + 1,
                total: total_steps,
                loss: metrics.reduced_train_loss,
                lr: metrics.lr,
                grad_norm: metrics.grad_norm,
                tokens_per_second: metrics.tokens_per_second,
                peak_memory_gib: metrics.peak_memory_gib,
            });
        }
        Ok(())
    }

    pub(super) fn validation(&mut self, metrics: &ValidationMetrics) -> Result<()> {
        for logger in &mut self.loggers {
            logger.validation(metrics)?;
        }
        if let Some(console) = &mut self.console {
            let val_loss = metrics.val_loss.map_or_else(|| "none".to_owned(), |loss| format!("{loss:.4}"));
            let text = format!(
                "validation after step {}: val_loss {val_loss} over {} samples\n",
                metrics.step + 1,
                metrics.val_samples
            );
            console.write(text.as_bytes());
        }
        Ok(())
    }

    /// Ends the records of a successful run.
    pub(super) fn finish(&mut self, outcome: Outcome, report: &RunReport, effects: &EffectReport) -> Result<()> {
        for logger in &mut self.loggers {
            logger.finish(outcome)?;
        }
        self.effects(effects)?;
        if self.console.take().is_none() {
            return Ok(());
        }
        // A run without a step has no curves. A failed plot does not fail the run.
        if let Some(error) = plot::draw(slice::from_ref(&self.run_dir), None).err().filter(|_| report.steps > 0) {
            tracing::warn!("no curves were drawn: {error}");
        }
        write_json(&self.run_dir.join(REPORT_FILE), report)
    }

    /// Prints a text on the first rank.
    pub(super) fn print(&mut self, text: &str) {
        if let Some(console) = &mut self.console {
            console.write(text.as_bytes());
        }
    }

    /// Prints and stores what the run did.
    pub(super) fn effects(&mut self, effects: &EffectReport) -> Result<()> {
        let Some(console) = &mut self.console else { return Ok(()) };
        console.write(effects.to_string().as_bytes());
        write_json(&self.run_dir.join(EFFECTS_FILE), effects)
    }

    /// Ends the records of a failed run. Errors are only logged.
    pub(super) fn fail(&mut self) {
        for logger in &mut self.loggers {
            if let Err(error) = logger.finish(Outcome::Failed) {
                tracing::warn!("{error}");
            }
        }
    }
}

fn parameter_text(table: &[PartSummary]) -> String {
    let name = |line: &PartSummary| {
        let name = |part: Part| format!("{part:?}").to_lowercase();
        match line.adapts {
            Some(adapted) => format!("{} on {}", name(line.part), name(adapted)),
            None => name(line.part),
        }
    };
    let head = format!("{:<22}{:>14}{:>14}\n", "part", "parameters", "trained");
    let lines = table.iter().map(|line| {
        let frozen = line.frozen_by.as_ref().map(|setting| format!("  {setting}"));
        format!(
            "{:<22}{:>14}{:>14}{}\n",
            name(line),
            line.total,
            line.trainable,
            frozen.unwrap_or_default()
        )
    });
    std::iter::once(head).chain(lines).collect()
}

/// Flattens the run to text values by dotted path.
fn flat(run: &Run) -> Result<BTreeMap<String, String>> {
    fn add(path: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                add(&path, value, flat);
            }),
            Value::String(text) => drop(flat.insert(path.to_owned(), text.clone())),
            other => drop(flat.insert(path.to_owned(), other.to_string())),
        }
    }
    let value = serde_json::to_value(run).map_err(|error| EngineError::Bug(format!("the run is no JSON: {error}")))?;
    let mut flat = BTreeMap::new();
    add("", &value, &mut flat);
    Ok(flat)
}

fn write_json(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let json =
        serde_json::to_vec_pretty(value).map_err(|error| EngineError::Bug(format!("{} cannot be written: {error}", path.display())))?;
    let temporary = path.with_extension("writing");
    std::fs::write(&temporary, json)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(EngineError::io("write", path))
}
