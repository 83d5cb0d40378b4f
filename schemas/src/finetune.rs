//! The graph that a recipe returns: NeMo's `llm.finetune` with all its arguments.

use crate::cut::validate_cut;
use crate::data::{Data, MAX_SAMPLES, MOCK_TEXT};
use crate::data_modules::MockDataModule;
use crate::layers::validate_layers;
use crate::log::Log;
use crate::model::Model;
use crate::optim::{AdamW, Optim};
use crate::parallel::ParallelSizes;
use crate::peft::Peft;
use crate::precision::{MixedPrecision, Precision, validate_fp8_model};
use crate::resume::AutoResume;
use crate::trainer::{Plugins, TrainerConfig};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fine-tuning run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finetune {
    /// Model to train.
    pub model: Model,
    /// Training and validation data.
    pub data: Data,
    /// Duration, devices and parallelism.
    pub trainer: TrainerConfig,
    /// Optimizer and learning-rate schedule.
    pub optim: Optim,
    /// Adapters to train; `null` trains the model itself.
    pub peft: Option<Peft>,
    /// Run folder, loggers and checkpoints.
    pub log: Log,
    /// Weights or checkpoint to start from.
    pub resume: AutoResume,
    /// The recipe was called with [`nemo_compat`](crate::RecipeArgs::nemo_compat): data without `add_bos` get no BOS,
    /// also data that a Rust caller sets later. In a file it is an argument of the recipe, not a field of the graph.
    #[serde(skip)]
    pub nemo_compat: bool,
}

impl Finetune {
    /// Returns the settings of a model that is only evaluated, on one rank.
    pub fn evaluation(model: Model, precision: Precision) -> Self {
        let trainer = TrainerConfig {
            plugins: Plugins::MixedPrecision(MixedPrecision {
                precision,
                ..MixedPrecision::default()
            }),
            ..TrainerConfig::default()
        };
        Self {
            model,
            data: Data::Mock(MockDataModule::default()),
            trainer,
            optim: Optim::AdamW(AdamW::default()),
            peft: None,
            log: Log::default(),
            resume: AutoResume::default(),
            nemo_compat: false,
        }
    }

    /// Returns the number of microbatches per data-parallel rank and optimizer step, or `None` if they do not divide evenly.
    pub fn num_microbatches(&self) -> Option<u64> {
        let sizes = ParallelSizes::from_trainer(&self.trainer)?;
        let samples = self.data.micro_batch_size().checked_mul(sizes.dp.into())?;
        (samples > 0 && self.data.global_batch_size().is_multiple_of(samples)).then(|| self.data.global_batch_size() / samples)
    }
}

impl Validate for Finetune {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        self.model.validate(&format!("{path}.model"), problems);
        self.data.validate(&format!("{path}.data"), problems);
        self.trainer.validate(&format!("{path}.trainer"), problems);
        self.optim.validate(&format!("{path}.optim"), problems);
        self.log.validate(&format!("{path}.log"), problems);
        self.resume.validate(&format!("{path}.resume"), problems);
        match &self.peft {
            Some(peft) => peft.lora().validate(&format!("{path}.peft"), problems),
            None if self.model.description().is_frozen() => {
                problems.push(Problem::error(
                    format!("{path}.model"),
                    "language model, vision model and projection are all frozen: nothing to train",
                ));
            }
            None => {}
        }
        let model = self.model.description();
        self.validate_weights(path, problems);
        validate_cut(&model, &self.trainer, path, problems);
        self.validate_sequence(path, problems);
        self.validate_packing(path, problems);
        self.validate_batch(path, problems);
        validate_layers(model.num_layers(), &self.trainer, path, problems);
        let run = (&model, self.peft.as_ref(), &self.trainer.strategy);
        validate_fp8_model(self.trainer.mixed_precision(), run, path, problems);
    }
}

impl Finetune {
    /// Validates that the whole model has one source of weights, and that weights of single components do not conflict with it.
    fn validate_weights(&self, path: &str, problems: &mut Vec<Problem>) {
        if let (Some(address), Some(restore)) = (self.model.from_pretrained(), &self.resume.restore_config)
            && restore.path != address
        {
            let message = format!(
                "`restore_config` loads weights from {}, but `from_pretrained` loads them from {address}",
                restore.path
            );
            problems.push(Problem::error(format!("{path}.resume.restore_config.path"), message).help(format!(
                "remove one of them: --set {path}.resume.restore_config=null, or --set {path}.model.from_pretrained=null"
            )));
        }
        let parts: Vec<_> = self.model.pretrained_parts().into_iter().map(|(setting, _)| setting).collect();
        let Some((restore, setting)) = self.resume.restore_config.as_ref().zip(parts.first()) else {
            return;
        };
        if restore.load_optim_state {
            let message =
                format!("`load_optim_state` loads moments of the whole model, but `{setting}` loads other weights for a component");
            problems.push(
                Problem::error(format!("{path}.resume.restore_config.load_optim_state"), message)
                    .help(format!("set it to false, or {path}.model.{setting} to null")),
            );
        } else if restore.load_model_state && parts.len() == 3 {
            let message = "every component of the model loads its own weights: these are not used";
            problems.push(
                Problem::warning(format!("{path}.resume.restore_config.path"), message)
                    .help(format!("set {path}.resume.restore_config.load_model_state to false")),
            );
        }
    }

    /// Validates that rows can be split evenly and that mock samples have room for their text.
    fn validate_sequence(&self, path: &str, problems: &mut Vec<Problem>) {
        let (strategy, s) = (&self.trainer.strategy, self.data.seq_length());
        let multiple = strategy.sequence_multiple();
        let image = self.model.description().image_seq_length();
        let least = match &self.data {
            Data::Mock(data) => data.samples_per_row().saturating_mul(image.saturating_add(MOCK_TEXT)),
            _ => 1,
        };
        if s == 0 || multiple == 0 {
            return;
        }
        let at = format!("{path}.data.seq_length");
        let most = self
            .model
            .description()
            .decoder
            .map_or(usize::MAX, |decoder| decoder.config.max_position_embeddings);
        if let Some(problem) = self.too_many_positions(path, s, most, (least, multiple)) {
            problems.push(problem);
            return;
        }
        if s >= least && s.is_multiple_of(multiple) {
            if s <= image {
                let message = format!("`seq_length` {s} leaves no room for text next to one image of {image} positions");
                problems.push(Problem::warning(at, message));
            }
            return;
        }
        let (below, above) = (s / multiple * multiple, s.max(least).checked_next_multiple_of(multiple));
        let nearest = match above {
            Some(above) if below < least || (above - s < s - below && above <= most) => above,
            _ => below,
        };
        let message = if s.is_multiple_of(multiple) {
            let samples = match self.data.use_packed_sequence() {
                true => format!(" in each of {} mock samples", self.data.micro_batch_size()),
                false => String::new(),
            };
            format!("`seq_length` {s} leaves no room for text next to one image of {image} positions{samples}")
        } else {
            self.uneven_sequence("seq_length", s, multiple)
        };
        problems.push(Problem::error(at, message).help(format!("nearest that fits: {nearest}")));
    }

    /// Validates that packed rows can be split evenly.
    fn validate_packing(&self, path: &str, problems: &mut Vec<Problem>) {
        let Some(packing) = self.data.packing() else { return };
        let (length, multiple) = (packing.row_length, self.trainer.strategy.sequence_multiple());
        if packing.row_length != self.data.seq_length() && length > 0 && multiple > 0 && !length.is_multiple_of(multiple) {
            let message = self.uneven_sequence("packed_sequence_size", length, multiple);
            let nearest = length.next_multiple_of(multiple);
            let problem = Problem::error(format!("{path}.data.packed_sequence_size"), message);
            problems.push(problem.help(format!("nearest that fits: {nearest}")));
        }
    }

    /// Returns the problem of rows that exceed the positions of the model. If no valid length fits, other rules are
    /// reported first.
    fn too_many_positions(&self, path: &str, s: usize, most: usize, (least, multiple): (usize, usize)) -> Option<Problem> {
        let nearest = most / multiple * multiple;
        let fits = nearest >= least.max(1);
        if s <= most || (!fits && (s < least || !s.is_multiple_of(multiple))) {
            return None;
        }
        let section = self.model.description().decoder.map_or("text_config", |decoder| decoder.section);
        let message = format!("`seq_length` {s} exceeds the {most} positions of the language model");
        let raise = format!("raise {path}.model.{section}.max_position_embeddings if the model can take it");
        let help = if fits {
            format!("nearest that fits: {nearest}; or {raise}")
        } else {
            raise
        };
        Some(Problem::error(format!("{path}.data.seq_length"), message).help(help))
    }

    fn uneven_sequence(&self, name: &str, s: usize, multiple: usize) -> String {
        let strategy = &self.trainer.strategy;
        let mut factors = Vec::new();
        if strategy.context_parallel_size > 1 {
            factors.extend([("2", 2), ("context-parallel ranks", strategy.context_parallel_size)]);
        }
        if strategy.sequence_parallel {
            factors.push(("tensor-parallel ranks", strategy.tensor_model_parallel_size));
        }
        let names: Vec<_> = factors.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> = factors.iter().map(|(_, value)| value.to_string()).collect();
        let product = if factors.len() > 1 {
            format!(" = {multiple}")
        } else {
            String::new()
        };
        format!(
            "`{name}` {s} cannot be cut over the ranks: it is not a multiple of {} = {}{product}",
            names.join(" x "),
            values.join(" x "),
        )
    }

    /// Validates that the global batch is a whole number of microbatches on each data-parallel rank.
    fn validate_batch(&self, path: &str, problems: &mut Vec<Problem>) {
        let Some(sizes) = ParallelSizes::from_trainer(&self.trainer) else {
            return;
        };
        let (global, micro) = (self.data.global_batch_size(), self.data.micro_batch_size());
        if global == 0 || micro == 0 || self.num_microbatches().is_some() {
            return;
        }
        let ranks = u64::from(sizes.dp);
        if ranks == 0 || global > MAX_SAMPLES {
            return;
        }
        let Some(unit) = micro.checked_mul(ranks) else {
            let message = format!("micro_batch_size x data-parallel ranks = {micro} x {ranks} are more samples than can be counted");
            problems.push(Problem::error(format!("{path}.data.micro_batch_size"), message).help("use 1"));
            return;
        };
        let below = global / unit * unit;
        let nearest = match below.checked_add(unit) {
            Some(above) if below == 0 || above - global < global - below => above,
            _ => below,
        };
        problems.push(
            Problem::error(
                format!("{path}.data.global_batch_size"),
                format!(
                    "`global_batch_size` {global} is not a multiple of micro_batch_size x data-parallel ranks = {micro} x {ranks} = {unit}"
                ),
            )
            .help(format!("nearest that fits: {nearest}")),
        );
    }
}
