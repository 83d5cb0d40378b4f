//! Building blocks of NeMo's recipes, with their common values.

use crate::precision::bf16_mixed;
use neva_schemas::{
    Accelerator, AdamW, AutoResume, Data, Finetune, Log, LossNormalization, LrScheduler, MegatronStrategy, MockDataModule, Optim, Plugins,
    RecipeArgs, RestoreConfig, TrainerConfig,
};

/// Returns a `MockDataModule` with 4 workers.
pub(crate) fn mock_data(seq_length: usize, global_batch_size: u64, micro_batch_size: u64) -> Data {
    Data::Mock(MockDataModule {
        seq_length,
        global_batch_size,
        micro_batch_size,
        num_workers: 4,
        ..MockDataModule::default()
    })
}

/// Returns an `nl.Trainer` on GPUs with `bf16_mixed()`.
pub(crate) fn trainer(args: &RecipeArgs, max_steps: u64, tensor_model_parallel_size: u32) -> TrainerConfig {
    TrainerConfig {
        accelerator: Accelerator::Gpu,
        devices: args.num_gpus_per_node,
        num_nodes: args.num_nodes,
        max_steps: Some(max_steps),
        log_every_n_steps: 1,
        strategy: MegatronStrategy {
            tensor_model_parallel_size,
            // NeMo's recipes always enable it, and disable it with a warning where it has no effect.
            sequence_parallel: tensor_model_parallel_size > 1,
            ..MegatronStrategy::default()
        },
        plugins: Plugins::MixedPrecision(bf16_mixed()),
        ..TrainerConfig::default()
    }
}

/// Returns `distributed_fused_adam_with_cosine_annealing`.
pub(crate) fn adam(lr: f64, min_lr: f64, warmup_steps: u64) -> Optim {
    Optim::AdamW(AdamW {
        lr,
        weight_decay: 0.1,
        betas: (0.9, 0.95),
        eps: 1e-5,
        clip_grad: 1.0,
        lr_scheduler: LrScheduler::CosineAnnealing {
            warmup_steps,
            warmup_ratio: None,
            constant_steps: 0,
            min_lr,
        },
        ..AdamW::default()
    })
}

/// Returns `default_log`.
pub(crate) fn log(args: RecipeArgs) -> Log {
    Log {
        log_dir: args.dir,
        name: args.name,
        ..Log::default()
    }
}

/// Returns an `AutoResume` that only restores weights.
pub(crate) fn restore(path: &str) -> AutoResume {
    AutoResume {
        restore_config: Some(RestoreConfig::weights(path)),
        ..AutoResume::default()
    }
}

/// Applies [`RecipeArgs::nemo_compat`], except that samples do not start with BOS, which depends on the final
/// data of the run.
pub(crate) fn compat(mut finetune: Finetune, nemo_compat: bool) -> Finetune {
    if nemo_compat {
        if let Some(model) = finetune.model.as_llava_mut() {
            model.freeze_vision_model = true;
        }
        finetune.trainer.loss_normalization = LossNormalization::Microbatch;
    }
    finetune
}
