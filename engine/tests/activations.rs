//! What a rank keeps between the forward and the backward pass. A test program of its own: the allocator counts the
//! tensors of all threads of the process, so that one test runs at a time.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_engine::checkpoint::{Base, ModelCache, Sources};
use neva_engine::comm::{Mesh, run_ranks};
use neva_engine::model::Batch;
use neva_engine::nn::Segments;
use neva_engine::parallel::{context_part, zigzag};
use neva_engine::trainer::LoadedModel;
use neva_recipes::neva_tiny;
use neva_schemas::{CpCommType, Finetune, ParallelSizes, RecomputeGranularity, RecomputeMethod, RecomputeModule};
use neva_torch_ffi::allocator;
use std::path::PathBuf;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Places of a row; large beside whatever does not grow with it.
const S: i64 = 512;

/// A text of two rows.
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

/// Bytes that one rank keeps for the backward pass of the language model; the mean of all ranks.
fn kept(finetune: &Finetune, cp: u32) -> f64 {
    let sizes = ParallelSizes { cp, ..ParallelSizes::ONE };
    let barrier = Barrier::new(cp as usize);
    let bytes = run_ranks(cp as usize, Duration::from_secs(60), |fabric| {
        let mesh = Mesh::new(sizes, &fabric).unwrap();
        let cache = ModelCache { path: PathBuf::new() };
        let base = Base::of(finetune, &cache).unwrap();
        let sources = Sources {
            checkpoint: None,
            adapter: None,
            base: &base,
            cache: &cache,
        };
        let loaded = LoadedModel::load(finetune, sources, &mesh, Device::Cpu).unwrap();
        let batch = context_part(batch(), zigzag(&mesh)).unwrap();
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
    // Every rank sees the sum over all.
    assert!(bytes.iter().all(|rank| *rank == bytes[0]), "{bytes:?}");
    bytes[0] as f64 / f64::from(cp)
}

/// The recipe whose bytes are counted, while no other test counts any.
fn counting() -> (MutexGuard<'static, ()>, Finetune) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    allocator::install().unwrap();
    tch::set_num_threads(1);
    (turn, neva_tiny::finetune_recipe(neva_tiny::default_args()))
}

#[test]
fn activations_of_the_language_model_fall_as_the_ranks_of_a_sequence_grow() {
    let (_turn, mut finetune) = counting();
    for exchange in [CpCommType::P2p, CpCommType::AllGather] {
        finetune.trainer.strategy.cp_comm_type = exchange;
        let whole = kept(&finetune, 1);
        println!("{exchange:?}: 1 rank keeps {whole:.0} bytes");
        for cp in [2, 4] {
            let part = kept(&finetune, cp);
            let share = part / whole * f64::from(cp);
            println!("{exchange:?}: {cp} ranks keep {part:.0} bytes each: 1/{cp} x {share:.3}");
            // Less than 1: keys that query heads share are kept once on the ring, and once for each query head on a
            // rank of its own.
            assert!(share <= 1.02, "{cp} ranks keep {share} of what they should");
            assert!(
                share >= 0.8,
                "{cp} ranks keep {share} of what they should: is something not counted?"
            );
        }
    }
}

/// Only hidden states are left of layers that are computed again.
#[test]
fn recomputation_keeps_what_goes_into_a_layer() {
    let (_turn, mut finetune) = counting();
    let text = &mut finetune.model.llava_mut().text_config;
    text.num_hidden_layers = 6;
    let hidden = 2.0 * S as f64 * text.hidden_size as f64 * 4.0;
    let everything = kept(&finetune, 1);
    let mut again = |granularity, method, number, modules: &[RecomputeModule]| {
        let strategy = &mut finetune.trainer.strategy;
        (strategy.recompute_granularity, strategy.recompute_method) = (Some(granularity), method);
        strategy.recompute_num_layers = number;
        strategy.recompute_modules = (!modules.is_empty()).then(|| modules.to_vec());
        kept(&finetune, 1)
    };
    let full = again(RecomputeGranularity::Full, None, None, &[]);
    let pairs = again(RecomputeGranularity::Full, Some(RecomputeMethod::Uniform), Some(2), &[]);
    let half = again(RecomputeGranularity::Full, Some(RecomputeMethod::Block), Some(3), &[]);
    let mlp = again(RecomputeGranularity::Selective, None, None, &[RecomputeModule::Mlp]);
    let attention = again(RecomputeGranularity::Selective, None, None, &[RecomputeModule::CoreAttn]);
    println!("all {everything:.0}, full {full:.0}, in pairs {pairs:.0}, half {half:.0}, MLP {mlp:.0}, attention {attention:.0} bytes");
    // Three layers less are kept once more, whatever else there is: embedding and final norm.
    let layer = (full - pairs) / 3.0;
    assert!(
        (0.99..1.01).contains(&(layer / hidden)),
        "a layer keeps {layer} bytes, its hidden states are {hidden}"
    );
    let ends = full - 6.0 * hidden;
    let each = (everything - ends) / 6.0;
    assert!(each > 8.0 * hidden, "a layer keeps {each} bytes by itself");
    assert!(
        (half - (ends + 3.0 * hidden + 3.0 * each)).abs() < 0.01 * half,
        "half of the layers keep {half} bytes"
    );
    assert!(mlp < 0.8 * everything && attention < 0.97 * everything);
}
