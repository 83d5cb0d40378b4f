//! Trainer: duration, devices and precision of a run.

use crate::callback::CallbackConfig;
use crate::period::{Period, validate_period};
use crate::precision::{MixedPrecision, Precision, validate_precision};
use crate::requirement::validate_requirements;
use crate::strategy::{MegatronStrategy, validate_ranks, validate_strategy};
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// NeMo's `nl.Trainer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Trainer", deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// Device type of the ranks.
    pub accelerator: Accelerator,
    /// Number of ranks per node.
    pub devices: u32,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Number of optimizer steps of the whole run; `null` means `max_epochs` alone ends it.
    pub max_steps: Option<u64>,
    /// Number of passes over the data; the run ends at the earlier of `max_steps` and `max_epochs`.
    pub max_epochs: Option<u64>,
    /// Wall-time limit of this attempt; the run saves and stops in time to meet it.
    pub max_time: Option<Period>,
    /// Number of steps between validations; `null` disables validation.
    pub val_check_interval: Option<u64>,
    /// Maximum number of global batches per validation; `null` uses all validation data.
    pub limit_val_batches: Option<u64>,
    /// Number of steps between logged metrics.
    pub log_every_n_steps: u64,
    /// Parallelism of the model.
    pub strategy: MegatronStrategy,
    /// Numeric precision.
    pub plugins: Plugins,
    /// Normalization of the loss and its gradient.
    pub loss_normalization: LossNormalization,
    /// Action if the loss or the gradient is not finite.
    pub nan_policy: NanPolicy,
    /// Reports steps, with their samples, whose loss exceeds the recent mean by this many standard deviations; `null`
    /// disables it.
    pub loss_spike_threshold: Option<f64>,
    /// Conditions on what ran, checked after the first step: `fp8>=0.95`, `adapters`, `gradients`, `packing`,
    /// `attention=flash`. `--require` sets it.
    pub require: Vec<String>,
    /// Number of first steps of each attempt that are profiled: `profile.json` in the run's folder is a trace of all ranks, and
    /// a table says where the steps went. `null` profiles none. `--profile` sets it.
    pub profile_steps: Option<u64>,
    /// Callbacks: early stopping and custom types.
    pub callbacks: Vec<CallbackConfig>,
    /// Seed of weight initialization and dropout.
    pub seed: u64,
    /// Makes results bitwise reproducible, at some cost in speed.
    pub deterministic: bool,
    /// Number of threads per rank; `null` uses `OMP_NUM_THREADS` if it is set, or else divides the machine's cores among
    /// its ranks and concurrent tasks.
    pub threads_per_rank: Option<u32>,
    /// Timeout in seconds of each wait for another rank.
    pub timeout_s: u64,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            accelerator: Accelerator::Auto,
            devices: 1,
            num_nodes: 1,
            max_steps: Some(5190),
            max_epochs: None,
            max_time: None,
            val_check_interval: Some(1000),
            limit_val_batches: Some(10),
            log_every_n_steps: 1,
            strategy: MegatronStrategy::default(),
            plugins: Plugins::default(),
            loss_normalization: LossNormalization::GlobalToken,
            nan_policy: NanPolicy::Stop,
            loss_spike_threshold: Some(6.0),
            require: Vec::new(),
            profile_steps: None,
            callbacks: Vec::new(),
            seed: 1234,
            deterministic: true,
            threads_per_rank: None,
            timeout_s: 600,
        }
    }
}

impl TrainerConfig {
    /// Returns the number of ranks.
    pub fn world_size(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.num_nodes)
    }

    /// Returns the number of optimizer steps of the whole run in batches of `global_batch_size` rows. `rows_of` returns the
    /// number of rows of so many epochs, or its second argument if there are more. The last batch of an epoch is filled from
    /// the next one.
    ///
    /// # Errors
    /// That of `rows_of`.
    pub fn total_steps<E>(&self, global_batch_size: u64, rows_of: impl FnOnce(u64, u64) -> Result<u64, E>) -> Result<u64, E> {
        let batch = global_batch_size.max(1);
        let Some(epochs) = self.max_epochs else {
            return Ok(self.max_steps.unwrap_or(0));
        };
        let limit = self.max_steps.map_or(u64::MAX, |steps| steps.saturating_mul(batch));
        Ok(rows_of(epochs, limit)?.min(limit).div_ceil(batch))
    }

    /// Refuses a profile of no step, and one of more steps than the run has.
    fn validate_profile(&self, path: &str, problems: &mut Vec<Problem>) {
        let most = self.max_steps.unwrap_or(u64::MAX);
        let Some(steps) = self.profile_steps.filter(|steps| *steps == 0 || *steps > most) else {
            return;
        };
        let message = match steps {
            0 => "`profile_steps` is 0: a profile needs a step".to_owned(),
            _ => format!("`profile_steps` is {steps}, but the run has {most} steps"),
        };
        let most = most.clamp(1, Self::PROFILED_STEPS);
        let help = format!("use {most}, as in `--profile {most}`, or null to profile nothing");
        problems.push(Problem::error(format!("{path}.profile_steps"), message).help(help));
    }

    /// Steps of a profile if no number is given.
    pub const PROFILED_STEPS: u64 = 10;

    /// Returns the numeric precision of weights and activations.
    pub fn precision(&self) -> Precision {
        self.mixed_precision().precision
    }

    /// Returns the settings of numeric precision, to change them.
    pub fn mixed_precision_mut(&mut self) -> &mut MixedPrecision {
        let Plugins::MixedPrecision(plugin) = &mut self.plugins;
        plugin
    }

    /// Returns the settings of numeric precision.
    pub fn mixed_precision(&self) -> &MixedPrecision {
        let Plugins::MixedPrecision(plugin) = &self.plugins;
        plugin
    }
}

/// Device type of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The GPU if libtorch finds one, else the CPU.
    Auto,
    /// One GPU per rank.
    Gpu,
    /// The CPU.
    Cpu,
}

/// Normalization of the loss and its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossNormalization {
    /// Mean over all labelled tokens of the global batch: equal in every layout.
    GlobalToken,
    /// Mean of the microbatch means, as in NeMo: depends on the layout.
    Microbatch,
}

/// Action if the loss or the gradient norm is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NanPolicy {
    /// Ends the run; the last checkpoint stays valid.
    Stop,
    /// Skips the update and counts it in `skipped_steps`; ten in a row end the run.
    Skip,
}

/// Plugins, with which NeMo sets the numeric precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Plugins {
    /// NeMo's `nl.MegatronMixedPrecision`.
    #[serde(rename = "nl.MegatronMixedPrecision", alias = "MegatronMixedPrecision")]
    MixedPrecision(MixedPrecision),
}

impl Default for Plugins {
    fn default() -> Self {
        Self::MixedPrecision(MixedPrecision::default())
    }
}

impl Validate for TrainerConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(
            path,
            problems,
            &[
                ("devices", self.devices.into()),
                ("num_nodes", self.num_nodes.into()),
                ("max_steps", self.max_steps.unwrap_or(1)),
                ("max_epochs", self.max_epochs.unwrap_or(1)),
                ("val_check_interval", self.val_check_interval.unwrap_or(1)),
                ("log_every_n_steps", self.log_every_n_steps),
                ("timeout_s", self.timeout_s),
                ("threads_per_rank", self.threads_per_rank.unwrap_or(1).into()),
            ],
        );
        validate_period(path, problems, "max_time", self.max_time);
        if self.max_steps.is_none() && self.max_epochs.is_none() {
            problems.push(
                Problem::error(format!("{path}.max_steps"), "neither `max_steps` nor `max_epochs` is set")
                    .help("set one of them; the learning-rate schedule needs it"),
            );
        }
        if let Some(threshold) = self
            .loss_spike_threshold
            .filter(|threshold| !(threshold.is_finite() && *threshold > 0.0))
        {
            let message = format!("`loss_spike_threshold` is {threshold:?}, it must be above 0 and finite");
            problems.push(Problem::error(format!("{path}.loss_spike_threshold"), message).help("use 6.0, or null to report no spikes"));
        }
        validate_requirements(path, &self.require, problems);
        self.validate_profile(path, problems);
        for (index, callback) in self.callbacks.iter().enumerate() {
            callback.validate(&format!("{path}.callbacks[{index}]"), problems);
        }
        if u32::try_from(self.world_size()).is_err() {
            let message = format!(
                "{} nodes x {} devices are more ranks than can be numbered",
                self.num_nodes, self.devices
            );
            problems.push(Problem::error(format!("{path}.devices"), message));
        }
        validate_precision(&format!("{path}.plugins"), self.mixed_precision(), problems);
        let path = format!("{path}.strategy");
        validate_strategy(&path, &self.strategy, problems);
        validate_ranks(&path, &self.strategy, (self.num_nodes, self.devices), problems);
    }
}
