//! Small runs, and changes to them.

use neva_layout::{Families, ModelTable};
use neva_recipes::neva_tiny;
use neva_schemas::{
    Accelerator, CallbackConfig, CustomCallback, Data, Finetune, LlavaModel, LoRA, LrScheduler, MixedPrecision, MockDataModule, Model,
    NevaPreloadedDataModule, ParallelSizes, Peft, Plugins, Precision, TextConfig, VisionConfig,
};
use serde_json::Value;
use std::path::Path;

/// Returns the recipe `neva_tiny` on one CPU thread.
pub(crate) fn tiny() -> Finetune {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.trainer.accelerator = Accelerator::Cpu;
    finetune.trainer.threads_per_rank = Some(1);
    // Tests read whole gradients, which plain data parallelism has on each rank. Tests of shards enable the distributed optimizer.
    finetune.trainer.strategy.ddp.use_distributed_optimizer = false;
    finetune
}

/// Returns the table of a model of built-in families.
pub(crate) fn table(model: &LlavaModel) -> ModelTable {
    Families::builtin().resolve(&Model::Llava(model.clone()), "model").unwrap()
}

/// Returns the same family at a size that trains a step in milliseconds. An image takes 4 positions.
pub(crate) fn small() -> Finetune {
    let mut finetune = tiny();
    let model = finetune.model.as_llava_mut().unwrap();
    let text = TextConfig {
        vocab_size: 320,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        ..model.text_config.clone()
    };
    let vision = VisionConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_attention_heads: 2,
        image_size: 28,
        ..model.vision_config.clone()
    };
    (model.text_config, model.vision_config, model.image_token_index) = (text, vision, 319);
    finetune.data = Data::Mock(MockDataModule {
        seq_length: 24,
        global_batch_size: 8,
        micro_batch_size: 2,
        num_workers: 0,
        ..MockDataModule::default()
    });
    *finetune.optim.lr_scheduler_mut() = LrScheduler::constant();
    finetune.trainer.max_steps = Some(6);
    finetune
}

pub(crate) fn mock(finetune: &mut Finetune) -> &mut MockDataModule {
    match &mut finetune.data {
        Data::Mock(data) => data,
        _ => unreachable!("the small run trains on mock data"),
    }
}

pub(crate) fn precision(finetune: &mut Finetune, precision: Precision) {
    finetune.trainer.plugins = Plugins::MixedPrecision(MixedPrecision {
        precision,
        ..MixedPrecision::default()
    });
}

/// Sets small adapters on the default target modules, in place of training the language model.
pub(crate) fn lora(finetune: &mut Finetune) {
    finetune.peft = Some(Peft::LoRA(LoRA {
        dim: 4,
        alpha: 8.0,
        ..LoRA::default()
    }));
}

/// Sets small adapters on these modules.
pub(crate) fn adapters(finetune: &mut Finetune, target_modules: &[&str]) {
    lora(finetune);
    if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
        lora.target_modules = target_modules.iter().map(|target| (*target).to_owned()).collect();
    }
}

/// Sets a validation after every `every` steps, on `samples` samples.
pub(crate) fn validate(finetune: &mut Finetune, every: u64, samples: u64) {
    finetune.trainer.val_check_interval = Some(every);
    finetune.trainer.limit_val_batches = None;
    mock(finetune).num_val_samples = samples;
}

/// Sets a file of records in place of mock data, and a model with a suitable vocabulary.
pub(crate) fn preload<'a>(finetune: &'a mut Finetune, records: &Path) -> &'a mut NevaPreloadedDataModule {
    finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 2048;
    finetune.data = Data::Preloaded(NevaPreloadedDataModule {
        paths: vec![records.to_owned()],
        seq_length: 192,
        global_batch_size: 8,
        micro_batch_size: 2,
        tokenizer: Some("builtin:mistral_2k".into()),
        num_workers: 0,
        ..NevaPreloadedDataModule::default()
    });
    preloaded(finetune)
}

pub(crate) fn preloaded(finetune: &mut Finetune) -> &mut NevaPreloadedDataModule {
    match &mut finetune.data {
        Data::Preloaded(data) => data,
        _ => unreachable!("asked for after `preload`"),
    }
}

/// Returns a test's callback as a recipe names it.
pub(crate) fn custom(target: &str, mut arguments: Value) -> CallbackConfig {
    arguments["_target_"] = target.into();
    CallbackConfig::Custom(CustomCallback(arguments.as_object().unwrap().clone()))
}

/// Sets the parallel sizes of a mesh.
pub(crate) fn lay_out(finetune: &mut Finetune, sizes: ParallelSizes) {
    let strategy = &mut finetune.trainer.strategy;
    strategy.tensor_model_parallel_size = sizes.tp;
    strategy.context_parallel_size = sizes.cp;
    strategy.pipeline_model_parallel_size = sizes.pp;
}
