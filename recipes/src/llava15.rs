//! Common parts of the LLaVA-1.5 recipes.

use neva_schemas::{Finetune, LlavaModel, LoRA, Model, Peft, PeftScheme, RecipeArgs};

use crate::nemo;

/// Differences between the sizes of LLaVA-1.5.
pub(crate) struct Size {
    /// Model.
    pub(crate) model: LlavaModel,
    /// Number of samples per forward pass of one rank.
    pub(crate) micro_batch_size: u64,
    /// Weights to start from.
    pub(crate) weights: &'static str,
}

/// Returns NeMo's `finetune_recipe` of `llava15_7b.py` and `llava15_13b.py`.
pub(crate) fn finetune(args: RecipeArgs, size: Size) -> Finetune {
    let (tensor_model_parallel_size, lr) = match args.peft_scheme {
        PeftScheme::None => (2, 2e-5),
        PeftScheme::Lora => (1, 1e-4),
    };
    let nemo_compat = args.nemo_compat;
    let finetune = Finetune {
        model: Model::Llava(size.model),
        data: nemo::mock_data(4096, 128, size.micro_batch_size),
        trainer: nemo::trainer(&args, 5190, tensor_model_parallel_size),
        optim: nemo::adam(lr, 2e-7, 150),
        peft: peft(args.peft_scheme),
        log: nemo::log(args),
        resume: nemo::restore(size.weights),
        nemo_compat,
    };
    nemo::compat(finetune, nemo_compat)
}

/// Returns NeMo's `vlm.LoRA(freeze_vision_model=False, ...)`, or none. `linear_q` and `linear_kv` match nothing
/// in a NeVA, whose attention has one fused `linear_qkv`.
pub(crate) fn peft(scheme: PeftScheme) -> Option<Peft> {
    match scheme {
        PeftScheme::None => None,
        PeftScheme::Lora => Some(Peft::LoRA(LoRA {
            dim: 32,
            alpha: 32.0,
            dropout: 0.0,
            freeze_vision_model: false,
            ..LoRA::default()
        })),
    }
}
