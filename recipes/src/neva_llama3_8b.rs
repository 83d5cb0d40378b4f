//! NeVA over Llama-3-8B, with the values of NeMo's `vlm.recipes.neva_llama3_8b`.

use neva_schemas::{
    AutoResume, DistributedDataParallelConfig, Finetune, LlavaModel, MegatronStrategy, Model, PeftScheme, RecipeArgs, TextConfig,
    TextModelType, TrainerConfig,
};

use crate::{llava15, nemo};

/// Returns the default arguments: one node of 8 GPUs, training of the model itself.
pub fn default_args() -> RecipeArgs {
    RecipeArgs {
        peft_scheme: PeftScheme::None,
        ..RecipeArgs::default()
    }
}

/// Trains language model and projector with a frozen CLIP ViT-L/14-336, from fresh weights, for as many steps as
/// the pretraining of Llama-3. Resumes from the newest checkpoint of the same name.
///
/// `lora` trains adapters instead of the language model and changes nothing else; it needs pretrained weights,
/// `finetune.resume.restore_config`. The context-parallel size is 2, as in NeMo.
pub fn finetune_recipe(args: RecipeArgs) -> Finetune {
    let nemo_compat = args.nemo_compat;
    let finetune = Finetune {
        model: Model::Llava(model()),
        data: nemo::mock_data(8192, 512, 1),
        trainer: TrainerConfig {
            val_check_interval: Some(2000),
            limit_val_batches: Some(32),
            log_every_n_steps: 10,
            strategy: MegatronStrategy {
                context_parallel_size: 2,
                // NeMo's recipe has no `MegatronCommOverlapCallback`, which enables it in the others.
                ddp: DistributedDataParallelConfig {
                    overlap_grad_reduce: false,
                    ..DistributedDataParallelConfig::default()
                },
                ..MegatronStrategy::default()
            },
            ..nemo::trainer(&args, 1_168_251, 1)
        },
        optim: nemo::adam(3e-4, 3e-5, 2000),
        peft: llava15::peft(args.peft_scheme),
        log: nemo::log(args),
        resume: AutoResume {
            resume_if_exists: true,
            resume_ignore_no_checkpoint: true,
            ..AutoResume::default()
        },
        nemo_compat,
    };
    nemo::compat(finetune, nemo_compat)
}

/// Returns a frozen CLIP ViT-L/14-336 with Llama-3-8B.
pub fn model() -> LlavaModel {
    LlavaModel {
        text_config: llama3_8b(),
        // The last of the tokenizer's reserved tokens: it has none for images.
        image_token_index: 128_255,
        freeze_vision_model: true,
        ..LlavaModel::default()
    }
}

/// Returns `llm.Llama3Config8B`.
fn llama3_8b() -> TextConfig {
    TextConfig {
        model_type: Some(TextModelType::Llama),
        vocab_size: 128_256,
        hidden_size: 4096,
        intermediate_size: 14336,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        max_position_embeddings: 8192,
        initializer_range: 0.01,
        ..TextConfig::default()
    }
}
