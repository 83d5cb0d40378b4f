//! LLaVA-1.5 13B, with the values of NeMo's `vlm.llava15_13b.finetune_recipe` (NeMo 2.4).

use neva_schemas::{Finetune, LlavaModel, RecipeArgs, TextConfig, TextModelType};

use crate::llava15::{self, Size};

/// Returns the default arguments: one node of 8 GPUs, LoRA.
pub fn default_args() -> RecipeArgs {
    RecipeArgs::default()
}

/// Fine-tunes LLaVA-1.5 13B: [`llava15_7b`](crate::llava15_7b::finetune_recipe) with the language model of
/// Llama-2-13B and microbatches of one sample.
pub fn finetune_recipe(args: RecipeArgs) -> Finetune {
    let size = Size {
        model: model(),
        micro_batch_size: 1,
        weights: "nemo://llava-hf/llava-1.5-13b-hf",
    };
    llava15::finetune(args, size)
}

/// Returns LLaVA-1.5 13B: CLIP ViT-L/14-336 and Llama-2-13B.
pub fn model() -> LlavaModel {
    LlavaModel {
        text_config: TextConfig {
            model_type: Some(TextModelType::Llama),
            hidden_size: 5120,
            intermediate_size: 13824,
            num_hidden_layers: 40,
            num_attention_heads: 40,
            num_key_value_heads: 40,
            ..TextConfig::default()
        },
        ..LlavaModel::default()
    }
}
