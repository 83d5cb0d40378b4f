//! Projector alignment, the first stage of LLaVA-1.5 7B, with the values of NeMo's
//! `scripts/vlm/neva_pretrain.py` (NeMo 2.4).

use neva_schemas::{Finetune, LlavaModel, Model, PeftScheme, RecipeArgs};

use crate::{llava15, llava15_7b, nemo};

/// The arguments that a file leaves out: one node of 8 GPUs, no adapters.
pub fn default_args() -> RecipeArgs {
    RecipeArgs {
        peft_scheme: PeftScheme::None,
        ..RecipeArgs::default()
    }
}

/// Trains the projector between a frozen vision encoder and a frozen language model.
///
/// The default data is random. Captions need the template without roles or instructions:
/// `data_config.conv_template: plain` in a `vlm.NevaPreloadedDataModule`, whose own default is `v1`.
///
/// `lora` adds adapters to the language model, which train beside the projector; it changes nothing else.
/// Weight decay, epsilon and clipping are those of the other recipes, where the script leaves them to
/// Megatron. The script starts from a fresh projector; weights are restored whole here, so training goes
/// on from LLaVA's projector unless `finetune.resume.restore_config.path` names a model with a fresh one.
pub fn pretrain_recipe(args: RecipeArgs) -> Finetune {
    let nemo_compat = args.nemo_compat;
    let finetune = Finetune {
        model: Model::Llava(LlavaModel {
            freeze_language_model: true,
            freeze_vision_model: true,
            ..LlavaModel::default()
        }),
        data: nemo::mock_data(4096, 128, 2),
        trainer: nemo::trainer(&args, 5190, 1),
        optim: nemo::adam(1e-3, 2e-5, 70),
        peft: llava15::peft(args.peft_scheme),
        log: nemo::log(args),
        resume: nemo::restore(llava15_7b::WEIGHTS),
    };
    nemo::compat(finetune, nemo_compat)
}
