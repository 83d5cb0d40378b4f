//! Process-wide settings. There is one test, because the settings affect all threads.

use neva_torch_ffi::{
    AttentionKernels, Precision, allows_tf32, choose_float32_products, float32_products_by_onednn, forbid_tf32, libtorch_version,
    load_cuda, set_attention_kernels, set_deterministic_algorithms, set_float32_matmul_precision,
};
use tch::{Kind, Tensor};

#[test]
fn process_wide_settings() {
    assert_eq!(libtorch_version().unwrap(), "2.11.0");

    // The file is searched in the folder of the loaded libtorch.
    let beside = std::path::Path::new(env!("LIBTORCH_LIB")).join("libtorch_cuda.so");
    assert_eq!(load_cuda().unwrap(), beside.exists());

    // Convolutions may use TF32 until it is forbidden, matrix products only after it was requested.
    assert!(allows_tf32().unwrap());
    forbid_tf32().unwrap();
    assert!(!allows_tf32().unwrap());
    set_float32_matmul_precision(Precision::High).unwrap();
    assert!(allows_tf32().unwrap());
    forbid_tf32().unwrap();

    // Each precision guarantees an error bound, not bits: a few float epsilons for the highest precision, a few bf16
    // epsilons for the fastest.
    let (x, w) = (
        Tensor::randn([64, 512], tch::kind::FLOAT_CPU),
        Tensor::randn([512, 64], tch::kind::FLOAT_CPU),
    );
    let exact = x.to_kind(Kind::Double).matmul(&w.to_kind(Kind::Double));
    for (precision, bound) in [(Precision::Highest, 1e-5), (Precision::High, 1e-3), (Precision::Medium, 1e-2)] {
        set_float32_matmul_precision(precision).unwrap();
        let error = (x.matmul(&w).to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
        let error = error / exact.abs().max().double_value(&[]);
        assert!(error < bound, "{precision:?}: {error}");
    }
    set_float32_matmul_precision(Precision::Highest).unwrap();

    // Whoever computes products of the CPU, they are as accurate as single precision.
    assert_eq!(choose_float32_products().unwrap(), float32_products_by_onednn());
    let magnitude = x.abs().to_kind(Kind::Double).matmul(&w.abs().to_kind(Kind::Double));
    let error = ((x.matmul(&w).to_kind(Kind::Double) - &exact).abs() / magnitude)
        .max()
        .double_value(&[]);
    assert!(error < 1e-6, "{error}");
    set_float32_matmul_precision(Precision::Highest).unwrap();

    // Pitfall: a mask of kernels without a suitable one makes attention fail.
    let q = Tensor::randn([1, 1, 4, 8], tch::kind::FLOAT_CPU);
    let chosen = |flash, math| {
        let (efficient, cudnn) = (false, false);
        set_attention_kernels(AttentionKernels {
            flash,
            efficient,
            cudnn,
            math,
        })
        .unwrap();
        Tensor::f_internal_fused_sdp_choice(&q, &q, &q, None::<Tensor>, 0.0, true, None, false).unwrap()
    };
    // at::SDPBackend: math is 0, flash 1.
    assert_eq!((chosen(true, false), chosen(false, true), chosen(true, true)), (1, 0, 1));

    // Pitfall: without this setting, the backward of an index with duplicates differs from run to run on two threads.
    set_deterministic_algorithms(true).unwrap();
    tch::set_num_threads(2);
    let table = Tensor::randn([50, 256], tch::kind::FLOAT_CPU);
    let index = Tensor::randint(50, [4000], tch::kind::INT64_CPU);
    let weight = Tensor::randn([4000, 256], tch::kind::FLOAT_CPU);
    let gradient = || {
        let table = table.detach().set_requires_grad(true);
        let loss = (table.index(&[Some(&index)]) * &weight).sum(Kind::Float);
        neva_torch_ffi::backward(&[&loss], &[None], false).unwrap();
        table.grad()
    };
    let first = gradient();
    for run in 1..6 {
        assert!(gradient().equal(&first), "run {run}");
    }
    set_deterministic_algorithms(false).unwrap();
}
