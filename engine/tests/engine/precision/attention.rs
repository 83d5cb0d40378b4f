//! `attention_backend`: the kernel that is asked for computes all attention, or the run is refused.

use crate::layout::mixed;
use crate::setting::{ONE, Samples, close, microbatches, on_mesh, precision, run, small, trainer, within_limit};
use neva_engine::trainer::AttentionEffect;
use neva_kernels::AttentionKind;
use neva_schemas::{AttentionBackend, Precision, exit_class};
use tch::Kind;

#[test]
fn each_kernel_computes_the_same_attention() {
    within_limit(|| {
        let trained = |backend, window| {
            let mut finetune = small();
            finetune.trainer.strategy.attention_backend = backend;
            let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
            text.sliding_window = window;
            let samples = Samples::edited(&finetune, mixed);
            let step = |mesh: neva_engine::comm::Mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let mut losses = Vec::new();
                for step in 0..3 {
                    let report = trainer.step(&microbatches(&finetune, &samples, &mesh, step), |_| 1e-3, step);
                    losses.push(report.unwrap().loss.unwrap());
                }
                (losses, trainer.effects().unwrap().attention)
            };
            on_mesh(ONE, step).remove(0)
        };
        for window in [None, Some(7)] {
            // The width of the heads is no multiple of 16 in the vision encoder's, for which libtorch's kernel is used.
            let names = |kernels: &[AttentionEffect]| kernels.iter().map(|attention| attention.kernel).collect::<Vec<_>>();
            let (flash, kernels) = trained(AttentionBackend::Flash, window);
            assert!(kernels.iter().all(|attention| attention.backend == "flash"), "{kernels:?}");
            let own = AttentionKind::of_processor().is_blocked(Kind::Float);
            assert_eq!(names(&kernels).contains(&"flash (blocked)"), own, "window {window:?}: {kernels:?}");
            let (unfused, kernels) = trained(AttentionBackend::Unfused, window);
            assert_eq!(names(&kernels), ["unfused"], "window {window:?}");
            let (auto, kernels) = trained(AttentionBackend::Auto, window);
            assert!(!kernels.is_empty(), "window {window:?}");
            close("unfused", &unfused, &flash, 1e-5);
            close("auto", &auto, &flash, 1e-5);
            assert_ne!(unfused, flash, "the kernels round differently");
        }
    });
}

#[test]
fn a_kernel_that_libtorch_has_not_is_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.trainer.strategy.attention_backend = AttentionBackend::Fused;
        let failure = run(&finetune, folder.path()).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT);
        let text = failure.to_string();
        for expect in ["attention_backend", "cuDNN", "use auto, flash or unfused"] {
            assert!(text.contains(expect), "{text}");
        }
        precision(&mut finetune, Precision::Bf16Mixed);
        finetune.trainer.strategy.attention_backend = AttentionBackend::Unfused;
        finetune.trainer.strategy.context_parallel_size = 2;
        finetune.trainer.devices = 2;
        let loads = on_mesh(neva_schemas::ParallelSizes { cp: 2, ..ONE }, |mesh| {
            let cache = crate::setting::no_cache();
            let base = neva_engine::checkpoint::Base::of(&finetune, &cache).unwrap();
            let sources = neva_engine::checkpoint::Sources {
                checkpoint: None,
                adapter: None,
                base: &base,
                cache: &cache,
            };
            let registry = neva_engine::Registry::default();
            let loaded = neva_engine::trainer::LoadedModel::load(&finetune, registry.models(), sources, &mesh, tch::Device::Cpu);
            loaded.map(drop).unwrap_err().to_string()
        });
        assert!(
            loads[0].contains("context parallelism on a CPU computes its blocks with `flash`"),
            "{}",
            loads[0]
        );
    });
}
