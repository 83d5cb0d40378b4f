//! Test cases: a run, a layout, and its batches.

use crate::layout::Layout;
use crate::recompute::{recompute_settings, with_recompute};
use crate::setting::{Samples, adapters, mock, small, without_image, without_labels};
use neva_data::{IGNORE_INDEX, IMAGE_TOKEN_INDEX, Pixels};
use neva_layout::{Families, lora_adapters, quantization_problem};
use neva_schemas::{
    AdamW, CpCommType, DropoutPosition, FeatureSelect, Finetune, LossNormalization, LrScheduler, Model, Optim, Peft, ProjectorType,
    Quantization, RopeScaling, RopeType, Run, Severity, TextConfig, TextModelType, Validate, VisionConfig, VisionModelType, VisionNorm,
    VisionPlacement,
};

/// A test case: a run and a layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) text: Text,
    pub(super) vision: Vision,
    pub(super) layout: Layout,
    pub(super) options: Options,
    pub(super) trains: Trains,
    pub(super) batches: Batches,
}

/// The language model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) family: Family,
    /// The model is a language model alone.
    pub(super) alone: bool,
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) key_heads: usize,
    pub(super) head_dim: Option<usize>,
    pub(super) intermediate: usize,
    pub(super) vocabulary: usize,
    pub(super) tied: bool,
}

/// Family of the language model, and the settings of its config besides sizes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    Llama { bias: bool, scaled: bool },
    Mistral { window: Option<usize> },
    Nemotron { bias: bool },
    Qwen2 { window: Option<usize>, first: usize },
}

impl Family {
    fn configure(self, config: &mut TextConfig) {
        match self {
            Self::Llama { bias, scaled } => {
                config.model_type = Some(TextModelType::Llama);
                (config.attention_bias, config.mlp_bias) = (bias, bias);
                config.rope_scaling = scaled.then_some(RopeScaling {
                    rope_type: RopeType::Llama3,
                    factor: 4.0,
                    low_freq_factor: Some(1.0),
                    high_freq_factor: Some(4.0),
                    original_max_position_embeddings: Some(32),
                });
            }
            Self::Mistral { window } => {
                config.model_type = Some(TextModelType::Mistral);
                config.sliding_window = window;
            }
            Self::Nemotron { bias } => {
                config.model_type = Some(TextModelType::Nemotron);
                (config.attention_bias, config.mlp_bias) = (bias, bias);
            }
            Self::Qwen2 { window, first } => {
                config.model_type = Some(TextModelType::Qwen2);
                config.sliding_window = window;
                (config.use_sliding_window, config.max_window_layers) = (Some(window.is_some()), Some(first));
            }
        }
    }
}

/// The vision encoder and its selected features.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vision {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate: usize,
    pub(super) feature_layer: i64,
    pub(super) class_token: bool,
    pub(super) encoder: Encoder,
    /// A second selected hidden state.
    pub(super) second: Option<i64>,
    pub(super) projector: ProjectorType,
}

/// Family of the vision encoder, and the settings of its config besides sizes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoder {
    Clip,
    Siglip,
    /// InternViT as in 300M, or with the norms of 6B.
    InternVit {
        rms: bool,
    },
}

impl Encoder {
    fn configure(self, config: &mut VisionConfig) {
        config.model_type = match self {
            Self::Clip => VisionModelType::Clip,
            Self::Siglip => VisionModelType::Siglip,
            Self::InternVit { .. } => VisionModelType::InternVit,
        };
        if let Self::InternVit { rms: true } = self {
            (config.norm_type, config.use_qk_norm, config.attention_bias) = (VisionNorm::RmsNorm, true, false);
        }
        // Scales of 0.1 would hide what a layer adds.
        if let Self::InternVit { .. } = self {
            config.layer_scale_init_value = 0.8;
        }
    }
}

/// Options of a layout besides its sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) exchange: CpCommType,
    pub(super) placement: VisionPlacement,
    pub(super) overlap_grad_reduce: bool,
    pub(super) overlap_param_gather: bool,
    pub(super) bucket_size: u64,
    /// Number of the recompute setting.
    pub(super) recompute: Option<usize>,
}

/// Trainable parts of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trains {
    /// Whether language model, vision encoder and projector are frozen.
    pub(super) frozen: [bool; 3],
    /// Whether each of [`TARGETS`] has adapters.
    pub(super) targets: [bool; TARGETS.len()],
    /// Whether LoRA freezes language model and vision encoder.
    pub(super) replaced: [bool; 2],
    pub(super) adapters: AdapterOptions,
}

/// Settings of the adapters.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdapterOptions {
    /// Probability of dropout in percent.
    pub(super) dropout: u8,
    /// Dropout acts on the output.
    pub(super) post: bool,
    pub(super) rslora: bool,
    pub(super) dora: bool,
    /// The language model is in 4 bits, if LoRA freezes it.
    pub(super) quantized: bool,
}

pub(super) const TARGETS: [&str; 12] = [
    "linear_qkv",
    "linear_proj",
    "linear_fc1",
    "linear_fc2",
    "q_proj",
    "v_proj",
    "o_proj",
    "up_proj",
    "linear_1",
    "linear_2",
    "fc2",
    "*.layers.0.*.linear_fc2",
];

/// Batches of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    pub(super) length: usize,
    pub(super) micro_batch_size: u64,
    /// Number of microbatches of each data-parallel rank in a step.
    pub(super) count: u64,
    pub(super) mean_of_means: bool,
    /// Whether samples are packed into rows.
    pub(super) packed: bool,
    /// Bit masks of samples: bit `n` selects sample `n`, and every 64th after it.
    pub(super) without_image: u64,
    pub(super) two_images: u64,
    pub(super) without_labels: u64,
    pub(super) short: u64,
}

impl Case {
    pub(super) fn global_batch_size(&self) -> u64 {
        let Batches {
            micro_batch_size, count, ..
        } = self.batches;
        micro_batch_size * count * u64::from(self.layout.sizes.dp)
    }

    /// Returns the run on one rank.
    pub(super) fn alone(&self) -> Finetune {
        let mut finetune = small();
        let Self {
            text,
            vision,
            trains,
            batches,
            ..
        } = self;
        let model = finetune.model.as_llava_mut().unwrap();
        let config = &mut model.text_config;
        text.family.configure(config);
        config.num_hidden_layers = text.layers;
        config.hidden_size = text.hidden;
        (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (text.heads, text.key_heads, text.head_dim);
        (config.intermediate_size, config.vocab_size, config.tie_word_embeddings) = (text.intermediate, text.vocabulary, text.tied);
        // Hidden states and gradients are about 1, so that rounding is far below the tolerance.
        config.initializer_range = (text.hidden as f64).powf(-0.5);
        model.image_token_index = text.vocabulary as i64 - 1;
        let config = &mut model.vision_config;
        config.initializer_range = (8.0 * vision.heads as f64).powf(-0.5);
        (config.num_hidden_layers, config.num_attention_heads) = (vision.layers, vision.heads);
        (config.hidden_size, config.intermediate_size) = (8 * vision.heads, vision.intermediate);
        vision.encoder.configure(config);
        let layers: Vec<_> = std::iter::once(vision.feature_layer).chain(vision.second).collect();
        model.vision_feature_layer = layers.into();
        model.vision_feature_select_strategy = match vision.class_token {
            true => FeatureSelect::Full,
            false => FeatureSelect::Default,
        };
        // A pixel shuffle takes a square of positions.
        let square = model.description().vision.unwrap().positions() == 4;
        model.projector_type = match vision.projector {
            ProjectorType::InternVl if !square => ProjectorType::Mlp(3),
            projector => projector,
        };
        [
            model.freeze_language_model,
            model.freeze_vision_model,
            model.freeze_vision_projection,
        ] = trains.frozen;
        if text.alone {
            finetune.model = Model::language(model.text_config.clone());
        }
        let targets: Vec<_> = TARGETS
            .iter()
            .zip(trains.targets)
            .filter_map(|(target, on)| on.then_some(*target))
            .collect();
        if !targets.is_empty() {
            adapters(&mut finetune, &targets);
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                [lora.freeze_language_model, lora.freeze_vision_model] = trains.replaced;
                let options = trains.adapters;
                (lora.use_rslora, lora.use_dora) = (options.rslora, options.dora);
                lora.dropout = f64::from(options.dropout) / 100.0;
                if options.post && !options.dora {
                    lora.dropout_position = DropoutPosition::Post;
                }
                let quantized = options.quantized && lora.freeze_language_model;
                lora.quantization = quantized.then_some(Quantization::Nf4);
            }
        }
        let data = mock(&mut finetune);
        data.seq_length = batches.length;
        (data.micro_batch_size, data.global_batch_size) = (batches.micro_batch_size, self.global_batch_size());
        // Adam would turn rounding of small gradients into steps of the learning rate: a large epsilon prevents this.
        finetune.optim = Optim::AdamW(AdamW {
            lr: 1e-2,
            eps: 1e-2,
            clip_grad: 1.0,
            lr_scheduler: LrScheduler::constant(),
            ..AdamW::default()
        });
        if batches.mean_of_means {
            finetune.trainer.loss_normalization = LossNormalization::Microbatch;
        }
        finetune
    }

    /// Returns the same run in the layout.
    pub(super) fn laid_out(&self) -> Finetune {
        let mut finetune = self.layout.of(&self.alone());
        finetune.trainer.devices = self.layout.sizes.world();
        let (strategy, options) = (&mut finetune.trainer.strategy, self.options);
        (strategy.cp_comm_type, strategy.vision_placement) = (options.exchange, options.placement);
        strategy.ddp.overlap_grad_reduce = options.overlap_grad_reduce;
        strategy.ddp.overlap_param_gather = options.overlap_param_gather;
        strategy.ddp.bucket_size = options.bucket_size;
        mock(&mut finetune).use_packed_sequence = self.batches.packed;
        match options.recompute {
            Some(way) => with_recompute(&finetune, &recompute_settings()[way]),
            None => finetune,
        }
    }

    /// Returns the errors that prevent the run in the layout.
    pub(super) fn errors(&self) -> Vec<String> {
        let finetune = self.laid_out();
        let problems = Run::from_finetune(finetune.clone()).problems("");
        let problems = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        let mut errors: Vec<_> = problems.map(|problem| problem.to_string()).collect();
        if let (Some(peft), true) = (&finetune.peft, errors.is_empty()) {
            let parameters = Families::builtin().resolve(&finetune.model, "").unwrap();
            let parameters = parameters.parameters(finetune.trainer.strategy.vision_placement);
            let adapters = lora_adapters(&parameters, peft.lora(), "finetune.peft");
            errors.extend(adapters.err().into_iter().flatten().map(|problem| problem.to_string()));
            errors.extend(quantization_problem(&parameters, &finetune, "").map(|problem| problem.to_string()));
        }
        errors
    }

    pub(super) fn samples(self, finetune: &Finetune) -> Samples {
        let batches = self.batches;
        Samples::edited(finetune, move |index, sample| {
            let is = |kind: u64| kind >> (index % 64) & 1 == 1;
            if is(batches.short) {
                let length = sample.ids.len() / 2;
                sample.ids.truncate(length.max(5));
                sample.labels.truncate(length.max(5));
            }
            if is(batches.without_image) {
                without_image(sample);
            } else if is(batches.two_images) && !sample.images.is_empty() {
                // Before the last three tokens: samples that are not short are truncated within the image.
                let place = sample.ids.len() - 2;
                sample.ids.insert(place, IMAGE_TOKEN_INDEX);
                sample.labels.insert(place, IGNORE_INDEX);
                let chw = sample.images[0].chw.iter().rev().copied().collect();
                sample.images.push(Pixels {
                    chw,
                    ..sample.images[0].clone()
                });
            }
            if is(batches.without_labels) {
                without_labels(sample);
            }
        })
    }
}
