//! A NeVA small enough to train on a laptop's CPU in seconds: the same model family, code path and
//! arguments as the large recipes.
//!
//! Its vocabulary fits the small tokenizer that comes with the engine, `builtin:mistral_2k`: 2048 entries,
//! trimmed from that of mistralai/Mistral-7B-v0.1, under its licence, Apache-2.0.

use crate::nemo;
use neva_schemas::{
    Accelerator, AdamW, AutoResume, Data, Finetune, LlavaModel, LoRA, Log, LrScheduler, MegatronStrategy, MixedPrecision, MockDataModule,
    Model, Optim, Peft, PeftScheme, Plugins, Precision, RecipeArgs, TextConfig, TextModelType, TrainerConfig, VisionConfig,
};

/// Returns the default arguments: one rank, training of the model itself.
pub fn default_args() -> RecipeArgs {
    RecipeArgs {
        dir: None,
        name: "default".into(),
        num_nodes: 1,
        num_gpus_per_node: 1,
        peft_scheme: PeftScheme::None,
        nemo_compat: false,
    }
}

/// Trains a small NeVA from fresh weights. `lora` trains adapters at learning rate 5e-3 instead of the
/// model at 2e-3.
pub fn finetune_recipe(args: RecipeArgs) -> Finetune {
    let (lr, peft) = match args.peft_scheme {
        PeftScheme::None => (2e-3, None),
        PeftScheme::Lora => (
            5e-3,
            Some(Peft::LoRA(LoRA {
                dim: 8,
                alpha: 16.0,
                ..LoRA::default()
            })),
        ),
    };
    let nemo_compat = args.nemo_compat;
    let finetune = Finetune {
        model: Model::Llava(model()),
        data: Data::Mock(MockDataModule {
            seq_length: 128,
            global_batch_size: 8,
            micro_batch_size: 4,
            num_workers: 0,
            ..MockDataModule::default()
        }),
        trainer: TrainerConfig {
            accelerator: Accelerator::Auto,
            devices: args.num_gpus_per_node,
            num_nodes: args.num_nodes,
            max_steps: Some(100),
            strategy: MegatronStrategy::default(),
            plugins: Plugins::MixedPrecision(MixedPrecision {
                precision: Precision::Fp32,
                ..MixedPrecision::default()
            }),
            timeout_s: 60,
            ..TrainerConfig::default()
        },
        optim: Optim::AdamW(AdamW {
            lr,
            weight_decay: 0.0,
            betas: (0.9, 0.95),
            eps: 1e-5,
            clip_grad: 1.0,
            lr_scheduler: LrScheduler::CosineAnnealing {
                warmup_steps: 10,
                warmup_ratio: None,
                constant_steps: 0,
                min_lr: 1e-5,
            },
            ..AdamW::default()
        }),
        peft,
        log: Log {
            log_dir: args.dir,
            name: args.name,
            ..Log::default()
        },
        resume: AutoResume::default(),
        nemo_compat,
    };
    nemo::compat(finetune, nemo_compat)
}

/// Returns a model of about 2.3 million parameters; an image takes 4 x 4 = 16 positions.
pub fn model() -> LlavaModel {
    LlavaModel {
        text_config: TextConfig {
            model_type: Some(TextModelType::Llama),
            vocab_size: 2048,
            hidden_size: 160,
            intermediate_size: 448,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            max_position_embeddings: 4096,
            ..TextConfig::default()
        },
        vision_config: VisionConfig {
            hidden_size: 128,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            image_size: 56,
            patch_size: 14,
            ..VisionConfig::default()
        },
        image_token_index: 2046,
        ..LlavaModel::default()
    }
}
