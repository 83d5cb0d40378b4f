//! Data modules.

use crate::custom_data::CustomData;
use crate::data_modules::{ImageDataConfig, MockDataModule, NevaPreloadedDataModule, OnError, PREFETCH};
use crate::energon::{EnergonMultiModalDataModule, TaskEncoder};
use crate::packing::{Packing, PackingSettings};
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The data module of a run.
#[expect(clippy::large_enum_variant, reason = "a run has one; a box would be in every match")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Data {
    /// Random tokens and images; needs no file, network or tokenizer.
    #[serde(rename = "vlm.MockDataModule")]
    Mock(MockDataModule),
    /// A LLaVA-JSON file, loaded completely.
    #[serde(rename = "vlm.NevaPreloadedDataModule")]
    Preloaded(NevaPreloadedDataModule),
    /// WebDataset shards with Energon's metadata.
    #[serde(rename = "EnergonMultiModalDataModule")]
    Energon(EnergonMultiModalDataModule),
    /// A custom type of the rank program, registered under its `_target_`: `my_crate::MyData`.
    Custom(CustomData),
}

impl Data {
    /// Returns the number of samples per optimizer step, over all ranks.
    pub fn global_batch_size(&self) -> u64 {
        match self {
            Self::Mock(data) => data.global_batch_size,
            Self::Preloaded(data) => data.global_batch_size,
            Self::Energon(data) => data.global_batch_size,
            Self::Custom(data) => data.batching().global_batch_size,
        }
    }

    /// Returns the number of samples per forward pass of one rank.
    pub fn micro_batch_size(&self) -> u64 {
        match self {
            Self::Mock(data) => data.micro_batch_size,
            Self::Preloaded(data) => data.micro_batch_size,
            Self::Energon(data) => data.micro_batch_size,
            Self::Custom(data) => data.batching().micro_batch_size,
        }
    }

    /// Returns the maximum length of the combined text and image sequence.
    pub fn seq_length(&self) -> usize {
        match self {
            Self::Mock(data) => data.seq_length,
            Self::Preloaded(data) => data.seq_length,
            Self::Energon(data) => data.seq_length,
            Self::Custom(data) => data.batching().seq_length,
        }
    }

    /// Returns true if the samples of a forward pass are packed into shared rows.
    pub fn use_packed_sequence(&self) -> bool {
        match self {
            Self::Mock(data) => data.use_packed_sequence,
            Self::Preloaded(data) => data.use_packed_sequence,
            Self::Energon(data) => data.packs(),
            Self::Custom(data) => data.batching().use_packed_sequence,
        }
    }

    /// Returns the settings of packing of a module that has any.
    fn packing_settings(&self) -> Option<PackingSettings<'_>> {
        match self {
            Self::Mock(_) => None,
            Self::Preloaded(data) => Some(data.packing_settings()),
            Self::Energon(data) => Some(data.packing_settings()),
            Self::Custom(data) => Some(data.batching().packing_settings()),
        }
    }

    /// Returns the packing over more samples than those of a forward pass. Rows are then what the batch sizes count.
    pub fn packing(&self) -> Option<Packing> {
        self.packing_settings()?.packing()
    }

    /// Returns true if batches have samples of one modality and similar length.
    pub fn groups_by_length(&self) -> bool {
        self.packing_settings().is_some_and(|settings| settings.group_by_modality_length)
    }

    /// Returns the maximum length of a row.
    pub fn row_length(&self) -> usize {
        self.packing().map_or(self.seq_length(), |packing| packing.row_length)
    }

    /// Returns the number of microbatches that each worker prepares ahead.
    pub fn prefetch(&self) -> usize {
        match self {
            Self::Mock(_) => PREFETCH,
            Self::Preloaded(data) => data.prefetch_factor,
            Self::Energon(data) => data.prefetch_factor,
            Self::Custom(data) => data.batching().prefetch_factor,
        }
    }

    /// Returns the number of threads that prepare samples on each rank; 0 prepares them inline.
    pub fn num_workers(&self) -> usize {
        match self {
            Self::Mock(data) => data.num_workers,
            Self::Preloaded(data) => data.num_workers,
            Self::Energon(data) => data.num_workers,
            Self::Custom(data) => data.batching().num_workers,
        }
    }

    /// Returns true if the samples are shuffled in each epoch.
    pub fn shuffle(&self) -> bool {
        match self {
            Self::Mock(_) => true,
            Self::Preloaded(data) => data.shuffle,
            Self::Energon(data) => data.shuffle,
            Self::Custom(data) => data.batching().shuffle,
        }
    }

    /// Returns the config reduced to the fields that affect sample content: the microbatch size, packing and the number of
    /// workers are reset, and the policy for broken samples.
    pub fn stream(&self) -> Self {
        let mut data = self.clone();
        match &mut data {
            Self::Mock(data) => {
                data.seq_length = data.sample_length();
                (data.micro_batch_size, data.use_packed_sequence, data.num_workers) = (1, false, 0);
            }
            Self::Preloaded(data) => {
                (data.micro_batch_size, data.use_packed_sequence, data.num_workers) = (1, false, 0);
                data.prefetch_factor = PREFETCH;
                // A replacement has the place of the sample that it replaces.
                (data.on_error, data.max_skipped) = (OnError::Fail, None);
            }
            Self::Energon(data) => {
                (data.micro_batch_size, data.use_packed_sequence, data.num_workers) = (1, false, 0);
                (data.on_error, data.max_skipped) = (OnError::Fail, None);
                // The encoder's config is kept in one place.
                data.multimodal_sample_config = data.sample_config().clone();
                data.task_encoder = data.task_encoder.take().filter(|encoder| matches!(encoder, TaskEncoder::Custom(_)));
                (data.num_val_workers, data.pin_memory, data.validation_task_encoder) = (None, None, None);
                data.prefetch_factor = PREFETCH;
                (data.shuffle_buffer_size, data.max_samples_per_sequence) = (None, None);
            }
            Self::Custom(data) => data.0.extend([
                ("micro_batch_size".into(), 1.into()),
                ("use_packed_sequence".into(), false.into()),
                ("num_workers".into(), 0.into()),
                ("prefetch_factor".into(), PREFETCH.into()),
            ]),
        }
        data
    }

    /// Returns image processing, conversation format and BOS of text data; `None` if the data has no text of its own.
    pub fn text_settings(&self) -> Option<(ImageDataConfig, Option<bool>)> {
        match self {
            Self::Preloaded(data) => Some((data.data_config.clone(), data.add_bos)),
            Self::Energon(data) => Some((data.data_config(), data.add_bos)),
            Self::Mock(_) | Self::Custom(_) => None,
        }
    }

    /// Returns the settings that name tokenizer and image processor, if the data has any.
    pub fn tools_mut(&mut self) -> Option<(&mut Option<String>, &mut Option<PathBuf>)> {
        match self {
            Self::Preloaded(data) => Some((&mut data.tokenizer, &mut data.image_processor)),
            Self::Energon(data) => Some((&mut data.tokenizer, &mut data.image_processor)),
            Self::Mock(_) | Self::Custom(_) => None,
        }
    }

    /// Returns the seed of the sample order.
    pub fn seed(&self) -> u64 {
        match self {
            Self::Mock(data) => data.seed,
            Self::Preloaded(data) => data.seed,
            Self::Energon(data) => data.seed,
            Self::Custom(data) => data.batching().seed,
        }
    }
}

/// Minimum number of text positions in a mock sample: two before its image, and one after it.
pub(crate) const MOCK_TEXT: usize = 3;

/// Upper limit of samples in an optimizer step; a rank keeps a list of them.
pub(crate) const MAX_SAMPLES: u64 = 1 << 32;

/// Upper limit of microbatches that a worker prepares ahead.
const MAX_PREFETCH: usize = 1 << 12;

/// Upper limit of positions in a forward pass: no machine's memory holds eight bytes for each.
const MAX_POSITIONS: u128 = 1 << 40;

impl Data {
    /// Rejects sizes that can only be mistakes.
    fn validate_size(&self, path: &str, problems: &mut Vec<Problem>) {
        let (samples, length) = (self.micro_batch_size(), self.seq_length().max(self.row_length()));
        if u128::from(samples) * length as u128 > MAX_POSITIONS {
            let setting = if length as u128 * length as u128 > MAX_POSITIONS {
                "seq_length"
            } else {
                "micro_batch_size"
            };
            let message = format!("micro_batch_size x seq_length = {samples} x {length} are more positions than a forward pass can have");
            problems.push(Problem::error(format!("{path}.{setting}"), message));
        }
        if self.prefetch() > MAX_PREFETCH {
            let message = format!("`prefetch_factor` {} is more microbatches than memory can hold", self.prefetch());
            problems.push(Problem::error(format!("{path}.prefetch_factor"), message).help(format!("use {PREFETCH} to {MAX_PREFETCH}")));
        }
        if self.global_batch_size() > MAX_SAMPLES {
            let message = format!(
                "`global_batch_size` {} is more samples than a step can have",
                self.global_batch_size()
            );
            problems.push(Problem::error(format!("{path}.global_batch_size"), message));
        }
    }
}

impl Validate for Data {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(
            path,
            problems,
            &[
                ("global_batch_size", self.global_batch_size()),
                ("micro_batch_size", self.micro_batch_size()),
                ("seq_length", self.seq_length() as u64),
            ],
        );
        self.validate_size(path, problems);
        match self {
            Self::Mock(data) => nonzero(path, problems, &[("num_train_samples", data.num_train_samples)]),
            Self::Preloaded(data) => data.validate(path, problems),
            Self::Energon(data) => data.validate(path, problems),
            Self::Custom(data) => data.validate(path, problems),
        }
    }
}
