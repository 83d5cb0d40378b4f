//! LLaVA-1.5 7B, with the values of NeMo's `vlm.llava15_7b.finetune_recipe` (NeMo 2.4).

use neva_schemas::{Finetune, LlavaModel, RecipeArgs};

use crate::llava15::{self, Size};

/// Returns the default arguments: one node of 8 GPUs, LoRA. (NeMo's function defaults to `none`,
/// its 13B sibling to `lora`.)
pub fn default_args() -> RecipeArgs {
    RecipeArgs::default()
}

/// Fine-tunes LLaVA-1.5 7B.
///
/// `peft_scheme: none` trains the model itself over 2 tensor-parallel ranks, with sequence parallelism, at learning rate
/// 2e-5; `lora` trains adapters on 1 at 1e-4. One value differs from NeMo's: the vision encoder is trained in both schemes
/// (`finetune.model.freeze_vision_model` freezes it; NeMo's `LlavaConfig` freezes it implicitly).
pub fn finetune_recipe(args: RecipeArgs) -> Finetune {
    let size = Size {
        model: model(),
        micro_batch_size: 2,
        weights: "nemo://llava-hf/llava-1.5-7b-hf",
    };
    llava15::finetune(args, size)
}

/// Returns LLaVA-1.5 7B: CLIP ViT-L/14-336 and Llama-2-7B.
pub fn model() -> LlavaModel {
    LlavaModel::default()
}
