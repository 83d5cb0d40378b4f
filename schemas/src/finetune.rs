//! The graph that a recipe returns: NeMo's `llm.finetune` with all its arguments.

use crate::cut::validate_cut;
use crate::data::{Data, MOCK_TEXT, MOST_SAMPLES};
use crate::layers::validate_layers;
use crate::log::Log;
use crate::model::Model;
use crate::optim::Optim;
use crate::parallel::ParallelSizes;
use crate::peft::Peft;
use crate::resume::AutoResume;
use crate::trainer::Trainer;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fine-tuning run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finetune {
    /// What is trained.
    pub model: Model,
    /// On what data.
    pub data: Data,
    /// For how long, on how many devices.
    pub trainer: Trainer,
    /// With which optimizer.
    pub optim: Optim,
    /// Through which adapters; `null` trains the model itself.
    pub peft: Option<Peft>,
    /// Where it writes.
    pub log: Log,
    /// What it starts from.
    pub resume: AutoResume,
}

impl Finetune {
    /// Micro-batches of each data-parallel rank in one optimizer step, or `None` where they do not divide evenly.
    pub fn num_microbatches(&self) -> Option<u64> {
        let sizes = ParallelSizes::of(&self.trainer)?;
        let samples = self.data.micro_batch_size().checked_mul(sizes.dp.into())?;
        (samples > 0 && self.data.global_batch_size().is_multiple_of(samples)).then(|| self.data.global_batch_size() / samples)
    }
}

impl Validate for Finetune {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let model = self.model.llava();
        model.validate(&format!("{path}.model"), problems);
        self.data.validate(&format!("{path}.data"), problems);
        self.trainer.validate(&format!("{path}.trainer"), problems);
        self.optim.validate(&format!("{path}.optim"), problems);
        self.log.validate(&format!("{path}.log"), problems);
        self.resume.validate(&format!("{path}.resume"), problems);
        match &self.peft {
            Some(Peft::LoRA(lora)) => lora.validate(&format!("{path}.peft"), problems),
            None if model.freeze_language_model && model.freeze_vision_model && model.freeze_vision_projection => {
                problems.push(Problem::error(
                    format!("{path}.model"),
                    "language model, vision model and projection are all frozen: nothing is left to train",
                ));
            }
            None => {}
        }
        validate_cut(self, path, problems);
        self.validate_sequence(path, problems);
        self.validate_batch(path, problems);
        validate_layers(self, path, problems);
    }
}

impl Finetune {
    /// The longest row is cut evenly, as are all shorter ones, and mock samples have room for their text.
    fn validate_sequence(&self, path: &str, problems: &mut Vec<Problem>) {
        let (strategy, s) = (&self.trainer.strategy, self.data.seq_length());
        let multiple = strategy.sequence_multiple();
        let image = self.model.llava().image_seq_length();
        let least = match &self.data {
            Data::Mock(data) => data.samples_of_a_row().saturating_mul(image.saturating_add(MOCK_TEXT)),
            _ => 1,
        };
        if s == 0 || multiple == 0 {
            return;
        }
        let at = format!("{path}.data.seq_length");
        if s >= least && s.is_multiple_of(multiple) {
            if s <= image {
                let message = format!("`seq_length` {s} leaves no room for text beside one picture of {image} positions");
                problems.push(Problem::warning(at, message));
            }
            return;
        }
        let (below, above) = (s / multiple * multiple, s.max(least).checked_next_multiple_of(multiple));
        let nearest = match above {
            Some(above) if below < least || above - s < s - below => above,
            _ => below,
        };
        let message = if s.is_multiple_of(multiple) {
            let samples = match self.data.use_packed_sequence() {
                true => format!(" in each of {} mock samples", self.data.micro_batch_size()),
                false => String::new(),
            };
            format!("`seq_length` {s} leaves no room for text beside one picture of {image} positions{samples}")
        } else {
            self.uneven_sequence(s, multiple)
        };
        problems.push(Problem::error(at, message).help(format!("nearest that fits: {nearest}")));
    }

    fn uneven_sequence(&self, s: usize, multiple: usize) -> String {
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
            "`seq_length` {s} cannot be cut over the ranks: it is not a multiple of {} = {}{product}",
            names.join(" x "),
            values.join(" x "),
        )
    }

    /// The global batch is a whole number of micro-batches on each data-parallel rank.
    fn validate_batch(&self, path: &str, problems: &mut Vec<Problem>) {
        let Some(sizes) = ParallelSizes::of(&self.trainer) else { return };
        let (global, micro) = (self.data.global_batch_size(), self.data.micro_batch_size());
        if global == 0 || micro == 0 || self.num_microbatches().is_some() {
            return;
        }
        let ranks = u64::from(sizes.dp);
        if ranks == 0 || global > MOST_SAMPLES {
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
