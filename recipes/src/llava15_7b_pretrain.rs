//! Projector alignment, the first stage of LLaVA-1.5 7B, with the values of NeMo's
//! `scripts/vlm/neva_pretrain.py` (NeMo 2.4).

use neva_schemas::{AutoResume, Data, Finetune, ImageDataConfig, LlavaModel, Model, NevaPreloadedDataModule, PeftScheme, RecipeArgs};

use crate::{llava15, nemo};

/// Returns the default arguments: one node of 8 GPUs, no adapters.
pub fn default_args() -> RecipeArgs {
    RecipeArgs {
        peft_scheme: PeftScheme::None,
        ..RecipeArgs::default()
    }
}

/// Trains a freshly initialized projector between a frozen CLIP and a frozen Vicuna-7B, on image captions.
///
/// The three components are loaded separately: `finetune.model.language_model_from_pretrained` and
/// `finetune.model.vision_model_from_pretrained` name folders, and the projector is freshly initialized unless
/// `finetune.model.vision_projection_from_pretrained` names one. The data are LLaVA's captions with the template
/// `plain`, only image and caption; `finetune.data.paths` overrides them.
///
/// `lora` also trains adapters on the language model and changes nothing else. Weight decay, epsilon and clipping
/// are those of the other recipes, where the script uses Megatron's defaults.
pub fn pretrain_recipe(args: RecipeArgs) -> Finetune {
    let nemo_compat = args.nemo_compat;
    let finetune = Finetune {
        model: Model::Llava(LlavaModel {
            freeze_language_model: true,
            freeze_vision_model: true,
            language_model_from_pretrained: Some("nemo://lmsys/vicuna-7b-v1.5".into()),
            vision_model_from_pretrained: Some("nemo://openai/clip-vit-large-patch14-336".into()),
            ..LlavaModel::default()
        }),
        data: captions(),
        trainer: nemo::trainer(&args, 5190, 1),
        optim: nemo::adam(1e-3, 2e-5, 70),
        peft: llava15::peft(args.peft_scheme),
        log: nemo::log(args),
        resume: AutoResume::default(),
        nemo_compat,
    };
    nemo::compat(finetune, nemo_compat)
}

/// Returns the 558,000 captions of LLaVA-1.5's alignment, at the path of its own scripts.
fn captions() -> Data {
    Data::Preloaded(NevaPreloadedDataModule {
        paths: vec!["data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json".into()],
        data_config: ImageDataConfig {
            image_folder: Some("data/LLaVA-Pretrain/images".into()),
            conv_template: Some("plain".into()),
            ..ImageDataConfig::default()
        },
        seq_length: 4096,
        global_batch_size: 128,
        micro_batch_size: 2,
        num_workers: 4,
        ..NevaPreloadedDataModule::default()
    })
}
