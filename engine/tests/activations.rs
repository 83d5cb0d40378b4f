//! Saved activations of a rank, its gradients and its optimizer. They have their own test program: the allocator counts the tensors of all threads of the
//! process, so one test runs at a time.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::checkpoint::{Base, ModelCache, Sources};
use neva_engine::comm::{Mesh, run_ranks};
use neva_engine::model::Models;
use neva_engine::parallel::{batch_on_this_cp_rank, zigzag};
use neva_engine::trainer::{LoadedModel, Microbatch, Trainer};
use neva_recipes::neva_tiny;
use neva_schemas::{
    CpCommType, Finetune, MixedPrecision, ParallelSizes, Plugins, Precision, RecomputeGranularity, RecomputeMethod, RecomputeModule,
};
use neva_torch_ffi::allocator;
use std::path::PathBuf;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Positions of a row; many, so that other memory is negligible.
const S: i64 = 512;

/// Returns a text of two rows.
fn batch() -> Batch {
    let ids = (Tensor::arange(2 * S, (Kind::Int64, Device::Cpu)) * 17).remainder(300).view([2, S]);
    Batch {
        labels_bs: ids.shallow_clone(),
        input_ids_bs: ids,
        segments: Segments::rows(&[S as usize; 2]),
        pixels: None,
        image_positions: Tensor::from_slice::<i64>(&[]),
        feature_rows: None,
    }
}

fn loaded(finetune: &Finetune, mesh: &Mesh) -> LoadedModel {
    let cache = ModelCache::at(PathBuf::new());
    let base = Base::of(finetune, &cache).unwrap();
    let sources = Sources {
        checkpoint: None,
        adapter: None,
        base: &base,
        cache: &cache,
    };
    LoadedModel::load(finetune, &Models::builtin(), sources, mesh, Device::Cpu).unwrap()
}

/// Returns the bytes of saved activations of the language model on one rank, the mean of all ranks.
fn saved_bytes(finetune: &Finetune, cp: u32) -> f64 {
    let sizes = ParallelSizes { cp, ..ParallelSizes::ONE };
    let barrier = Barrier::new(cp as usize);
    let bytes = run_ranks(cp as usize, Duration::from_secs(60), |factory| {
        let mesh = Mesh::new(sizes, &factory).unwrap();
        let loaded = loaded(finetune, &mesh);
        let batch = batch_on_this_cp_rank(batch(), zigzag(&mesh)).unwrap();
        barrier.wait();
        let before = allocator::live();
        barrier.wait();
        let hidden_bsh = loaded.whole().unwrap().0.forward(&batch, None).unwrap();
        barrier.wait();
        let bytes = allocator::live() - before;
        barrier.wait();
        assert!(hidden_bsh.requires_grad());
        bytes
    });
    // Every rank measures the sum over all ranks.
    assert!(bytes.iter().all(|rank| *rank == bytes[0]), "{bytes:?}");
    bytes[0] as f64 / f64::from(cp)
}

/// Returns the recipe whose bytes are counted, and a lock that keeps other tests from counting.
fn counting() -> (MutexGuard<'static, ()>, Finetune) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    allocator::install().unwrap();
    tch::set_num_threads(1);
    (turn, neva_tiny::finetune_recipe(neva_tiny::default_args()))
}

#[test]
fn saved_activations_shrink_with_the_context_parallel_size() {
    let (_turn, mut finetune) = counting();
    for exchange in [CpCommType::P2p, CpCommType::AllGather] {
        finetune.trainer.strategy.cp_comm_type = exchange;
        let whole = saved_bytes(&finetune, 1);
        println!("{exchange:?}: 1 rank saves {whole:.0} bytes");
        for cp in [2, 4] {
            let part = saved_bytes(&finetune, cp);
            let ratio = part / whole * f64::from(cp);
            println!("{exchange:?}: {cp} ranks save {part:.0} bytes each: 1/{cp} x {ratio:.3}");
            // Less than 1: shared keys are saved once on the ring, and once for each query head on a single rank.
            assert!(ratio <= 1.02, "{cp} ranks save {ratio} of the expected bytes");
            assert!(
                ratio >= 0.8,
                "{cp} ranks save {ratio} of the expected bytes: is something not counted?"
            );
        }
    }
}

/// Recomputed layers save only their hidden states.
#[test]
fn recomputation_saves_only_the_inputs_of_layers() {
    let (_turn, mut finetune) = counting();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    text.num_hidden_layers = 6;
    let hidden = 2.0 * S as f64 * text.hidden_size as f64 * 4.0;
    let everything = saved_bytes(&finetune, 1);
    let mut with_recompute = |granularity, method, number, modules: &[RecomputeModule]| {
        let strategy = &mut finetune.trainer.strategy;
        (strategy.recompute_granularity, strategy.recompute_method) = (Some(granularity), method);
        strategy.recompute_num_layers = number;
        strategy.recompute_modules = (!modules.is_empty()).then(|| modules.to_vec());
        saved_bytes(&finetune, 1)
    };
    let full = with_recompute(RecomputeGranularity::Full, None, None, &[]);
    let pairs = with_recompute(RecomputeGranularity::Full, Some(RecomputeMethod::Uniform), Some(2), &[]);
    let half = with_recompute(RecomputeGranularity::Full, Some(RecomputeMethod::Block), Some(3), &[]);
    let mlp = with_recompute(RecomputeGranularity::Selective, None, None, &[RecomputeModule::Mlp]);
    let attention = with_recompute(RecomputeGranularity::Selective, None, None, &[RecomputeModule::CoreAttn]);
    println!("all {everything:.0}, full {full:.0}, in pairs {pairs:.0}, half {half:.0}, MLP {mlp:.0}, attention {attention:.0} bytes");
    // Pairs save three layers fewer. Embedding and final norm cancel out.
    let layer = (full - pairs) / 3.0;
    assert!(
        (0.99..1.01).contains(&(layer / hidden)),
        "a layer saves {layer} bytes, its hidden states are {hidden}"
    );
    let rest = full - 6.0 * hidden;
    let each = (everything - rest) / 6.0;
    assert!(each > 8.0 * hidden, "a layer saves {each} bytes without recomputation");
    assert!(
        (half - (rest + 3.0 * hidden + 3.0 * each)).abs() < 0.01 * half,
        "half of the layers save {half} bytes"
    );
    assert!(mlp < 0.8 * everything && attention < 0.97 * everything);
}

/// The optimizer holds two moments of 4 bytes for each value, and the other half of a bf16 weight's master weight. Gradients have
/// memory from a backward pass on.
#[test]
fn state_has_no_copy_of_the_weights_and_gradients_come_with_the_backward_pass() {
    let (_turn, mut finetune) = counting();
    for (precision, expected) in [(Precision::Fp32, 8.0), (Precision::Bf16Mixed, 10.0)] {
        finetune.trainer.plugins = Plugins::MixedPrecision(MixedPrecision {
            precision,
            ..MixedPrecision::default()
        });
        let mesh = Mesh::single();
        let loaded = loaded(&finetune, &mesh);
        let values: usize = loaded.parameters.trainable().map(|parameter| parameter.tensor.numel()).sum();
        let before = allocator::live();
        let mut trainer = Trainer::new(&finetune, loaded, mesh).unwrap();
        let own = |live: u64| live as f64 - before as f64;
        let state = own(allocator::live()) / values as f64;
        assert!((state / expected - 1.0).abs() < 0.01, "{precision:?}: {state} bytes for each value");
        let batch = Microbatch::of(batch(), 2 * S as u64);
        let microbatches = [batch];
        let without = allocator::live();
        trainer.accumulate(&microbatches).unwrap();
        let touched = trainer.gradients().filter_map(|(_, gradient)| Some(gradient?.numel()));
        let gradients = 4.0 * touched.sum::<usize>() as f64;
        let found = own(allocator::live()) - own(without);
        assert!(
            (found / gradients - 1.0).abs() < 0.02,
            "{precision:?}: {found} bytes of gradients, expected {gradients}"
        );
    }
}
