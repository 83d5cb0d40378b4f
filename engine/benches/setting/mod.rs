//! Fixtures of the benches of a training step: a small model on one thread of the CPU, and mock batches.

use neva_data::{Batch, Order};
use neva_engine::checkpoint::{Base, ModelCache, Sources};
use neva_engine::comm::Mesh;
use neva_engine::model::Models;
use neva_engine::parallel::zigzag;
use neva_engine::trainer::{LoadedModel, Microbatch, Trainer, batch_sampler, merge_options, run_data, to_device};
use neva_recipes::neva_tiny;
use neva_schemas::{Accelerator, Data, Finetune, MockDataModule};
use std::path::PathBuf;
use tch::Device;

/// Returns the recipe `neva_tiny` on one thread, with rows of `seq_length` and the given batch sizes.
pub(crate) fn finetune(seq_length: usize, global_batch_size: u64, micro_batch_size: u64) -> Finetune {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.trainer.accelerator = Accelerator::Cpu;
    finetune.trainer.threads_per_rank = Some(1);
    finetune.data = Data::Mock(MockDataModule {
        seq_length,
        global_batch_size,
        micro_batch_size,
        num_workers: 0,
        ..MockDataModule::default()
    });
    finetune
}

/// Creates a trainer with fresh weights on one rank of a mesh.
pub(crate) fn trainer(finetune: &Finetune, mesh: Mesh) -> Trainer {
    let (base, cache) = (Base::Seed(1), ModelCache::at(PathBuf::new()));
    let sources = Sources {
        checkpoint: None,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    let loaded = LoadedModel::load(finetune, &Models::builtin(), sources, &mesh, Device::Cpu).expect("a fresh model");
    Trainer::new(finetune, loaded, mesh).expect("memory")
}

/// Returns the rank's microbatches of the first step.
pub(crate) fn microbatches(finetune: &Finetune, mesh: &Mesh) -> Vec<Microbatch> {
    let samples = run_data(finetune, None).expect("mock data").train;
    let (slice, options) = (batch_sampler(finetune, mesh), merge_options(finetune));
    let order = Order {
        seed: 0,
        len: samples.len() as u64,
        shuffle: false,
    };
    let microbatch = |n| {
        let batch = Batch::microbatch(&*samples, &order, &slice, &options, 0, n).expect("mock data");
        let whole = Microbatch::of(to_device(&batch, options.image_seq_len, Device::Cpu).expect("memory"), 0);
        whole.context_shard(zigzag(mesh)).expect("rows of a length that can be cut")
    };
    (0..slice.num_microbatches()).map(microbatch).collect()
}
