//! LLaVA-1.5 7B, with the values of NeMo's `vlm.llava15_7b.finetune_recipe` (NeMo 2.4).

use neva_schemas::{
    Accelerator, AdamW, AutoResume, Data, Finetune, LlavaModel, LoRA, Log, LrScheduler, MegatronStrategy, MixedPrecision, MockDataModule,
    Model, Optim, Peft, PeftScheme, Plugins, Precision, RecipeArgs, RestoreConfig, Trainer,
};

/// The arguments that a file leaves out: one node of 8 GPUs, LoRA. (NeMo's function defaults to `none`,
/// its 13B sibling to `lora`.)
pub fn default_args() -> RecipeArgs {
    RecipeArgs {
        dir: None,
        name: "default".into(),
        num_nodes: 1,
        num_gpus_per_node: 8,
        peft_scheme: PeftScheme::Lora,
    }
}

/// Fine-tunes LLaVA-1.5 7B.
///
/// `peft_scheme` decides three things: `none` trains the model itself over 2 tensor-parallel ranks at
/// learning rate 2e-5; `lora` trains adapters on 1 at 1e-4. Two values are not NeMo's: the vision encoder
/// trains in both schemes (`finetune.model.freeze_vision_model` freezes it, as NeMo's `LlavaConfig` does
/// without saying so), and `sequence_parallel` is off until that axis is built.
pub fn finetune_recipe(args: RecipeArgs) -> Finetune {
    let (tensor_model_parallel_size, lr, peft) = match args.peft_scheme {
        PeftScheme::None => (2, 2e-5, None),
        PeftScheme::Lora => (1, 1e-4, Some(Peft::LoRA(lora()))),
    };
    Finetune {
        model: Model::Llava(LlavaModel::default()),
        data: Data::Mock(MockDataModule {
            seq_length: 4096,
            global_batch_size: 128,
            micro_batch_size: 2,
            num_workers: 4,
            ..MockDataModule::default()
        }),
        trainer: Trainer {
            accelerator: Accelerator::Gpu,
            devices: args.num_gpus_per_node,
            num_nodes: args.num_nodes,
            max_steps: 5190,
            log_every_n_steps: 1,
            strategy: MegatronStrategy {
                tensor_model_parallel_size,
                ..MegatronStrategy::default()
            },
            plugins: Plugins::MixedPrecision(MixedPrecision {
                precision: Precision::Bf16Mixed,
            }),
            ..Trainer::default()
        },
        optim: Optim::AdamW(AdamW {
            lr,
            weight_decay: 0.1,
            betas: (0.9, 0.95),
            eps: 1e-5,
            clip_grad: 1.0,
            lr_scheduler: LrScheduler::CosineAnnealing {
                warmup_steps: 150,
                constant_steps: 0,
                min_lr: 2e-7,
            },
        }),
        peft,
        log: Log {
            log_dir: args.dir,
            name: args.name,
            ..Log::default()
        },
        resume: AutoResume {
            restore_config: Some(RestoreConfig {
                path: "nemo://llava-hf/llava-1.5-7b-hf".into(),
            }),
            ..AutoResume::default()
        },
    }
}

/// NeMo's `vlm.LoRA(freeze_vision_model=False, ...)`. `linear_q` and `linear_kv` match nothing in
/// LLaVA-1.5, whose attention has one fused `linear_qkv`.
fn lora() -> LoRA {
    LoRA {
        dim: 32,
        alpha: 32.0,
        dropout: 0.0,
        freeze_vision_model: false,
        ..LoRA::default()
    }
}
