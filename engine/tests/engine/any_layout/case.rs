//! A run, a layout, and what it is trained on.

use crate::layout::Layout;
use crate::recompute::{again, ways};
use crate::setting::{Samples, adapters, mock, small, without_labels, without_picture};
use neva_data::{IGNORE, IMAGE, Pixels};
use neva_layout::{llava_parameters, lora_adapters};
use neva_schemas::{
    AdamW, CpCommType, FeatureSelect, Finetune, LossNormalization, LrScheduler, Optim, Peft, Run, Severity, Validate, VisionPlacement,
};

/// A run and a layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) text: Text,
    pub(super) vision: Vision,
    pub(super) layout: Layout,
    pub(super) shares: Shares,
    pub(super) trains: Trains,
    pub(super) batches: Batches,
}

/// The language model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) key_heads: usize,
    pub(super) head_dim: Option<usize>,
    pub(super) intermediate: usize,
    pub(super) vocabulary: usize,
    pub(super) tied: bool,
}

/// The vision encoder, and what the projector sees of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vision {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate: usize,
    pub(super) feature_layer: i64,
    pub(super) class_token: bool,
}

/// What a layout says beside its sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    pub(super) exchange: CpCommType,
    pub(super) placement: VisionPlacement,
    pub(super) overlap_grad_reduce: bool,
    pub(super) overlap_param_gather: bool,
    pub(super) bucket_size: u64,
    /// Number of the way to compute again.
    pub(super) recompute: Option<usize>,
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trains {
    /// Language model, vision encoder, projector.
    pub(super) frozen: [bool; 3],
    /// Which of [`TARGETS`] have adapters.
    pub(super) targets: [bool; TARGETS.len()],
    /// Language model, vision encoder: what the adapters stand for.
    pub(super) replaced: [bool; 2],
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

/// On what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    pub(super) length: usize,
    pub(super) micro_batch_size: u64,
    /// Micro-batches of each data-parallel rank in a step.
    pub(super) count: u64,
    pub(super) mean_of_means: bool,
    /// Samples share rows.
    pub(super) packed: bool,
    /// Samples of each kind: bit `n` stands for sample `n`, and every 64th behind it.
    pub(super) without_picture: u64,
    pub(super) two_pictures: u64,
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

    /// The run on one rank.
    pub(super) fn alone(&self) -> Finetune {
        let mut finetune = small();
        let Self {
            text,
            vision,
            trains,
            batches,
            ..
        } = self;
        let model = finetune.model.llava_mut();
        let config = &mut model.text_config;
        config.num_hidden_layers = text.layers;
        config.hidden_size = text.hidden;
        (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (text.heads, text.key_heads, text.head_dim);
        (config.intermediate_size, config.vocab_size, config.tie_word_embeddings) = (text.intermediate, text.vocabulary, text.tied);
        // Hidden states and gradients of about one, so that rounding is far below what is compared.
        config.initializer_range = (text.hidden as f64).powf(-0.5);
        model.image_token_index = text.vocabulary as i64 - 1;
        let config = &mut model.vision_config;
        config.initializer_range = (8.0 * vision.heads as f64).powf(-0.5);
        (config.num_hidden_layers, config.num_attention_heads) = (vision.layers, vision.heads);
        (config.hidden_size, config.intermediate_size) = (8 * vision.heads, vision.intermediate);
        model.vision_feature_layer = vision.feature_layer;
        model.vision_feature_select_strategy = match vision.class_token {
            true => FeatureSelect::Full,
            false => FeatureSelect::Default,
        };
        [
            model.freeze_language_model,
            model.freeze_vision_model,
            model.freeze_vision_projection,
        ] = trains.frozen;
        let targets: Vec<_> = TARGETS
            .iter()
            .zip(trains.targets)
            .filter_map(|(target, on)| on.then_some(*target))
            .collect();
        if !targets.is_empty() {
            adapters(&mut finetune, &targets);
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                [lora.freeze_language_model, lora.freeze_vision_model] = trains.replaced;
            }
        }
        let data = mock(&mut finetune);
        data.seq_length = batches.length;
        (data.micro_batch_size, data.global_batch_size) = (batches.micro_batch_size, self.global_batch_size());
        // Adam makes rounding of small gradients steps of the learning rate; not above its epsilon's size.
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

    /// The same run in the layout.
    pub(super) fn laid_out(&self) -> Finetune {
        let mut finetune = self.layout.of(&self.alone());
        finetune.trainer.devices = self.layout.sizes.world();
        let (strategy, shares) = (&mut finetune.trainer.strategy, self.shares);
        (strategy.cp_comm_type, strategy.vision_placement) = (shares.exchange, shares.placement);
        strategy.ddp.overlap_grad_reduce = shares.overlap_grad_reduce;
        strategy.ddp.overlap_param_gather = shares.overlap_param_gather;
        strategy.ddp.bucket_size = shares.bucket_size;
        mock(&mut finetune).use_packed_sequence = self.batches.packed;
        match shares.recompute {
            Some(way) => again(&finetune, &ways()[way]),
            None => finetune,
        }
    }

    /// Why the run is not started in the layout.
    pub(super) fn errors(&self) -> Vec<String> {
        let finetune = self.laid_out();
        let config = finetune.model.llava();
        let problems = Run::of(finetune.clone()).problems("");
        let problems = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        let mut errors: Vec<_> = problems.map(|problem| problem.to_string()).collect();
        if let (Some(peft), true) = (&finetune.peft, errors.is_empty()) {
            let parameters = llava_parameters(config, finetune.trainer.strategy.vision_placement);
            let adapters = lora_adapters(config, &parameters, peft.lora(), "finetune.peft");
            errors.extend(adapters.err().into_iter().flatten().map(|problem| problem.to_string()));
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
            if is(batches.without_picture) {
                without_picture(sample);
            } else if is(batches.two_pictures) {
                // Before the last three tokens: a sample that is not short is cut within it.
                let place = sample.ids.len() - 2;
                sample.ids.insert(place, IMAGE);
                sample.labels.insert(place, IGNORE);
                let chw = sample.pictures[0].chw.iter().rev().copied().collect();
                sample.pictures.push(Pixels {
                    chw,
                    ..sample.pictures[0].clone()
                });
            }
            if is(batches.without_labels) {
                without_labels(sample);
            }
        })
    }
}
