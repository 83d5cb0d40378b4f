//! Settings of the whole process. One test: what it sets is seen by every thread.

use neva_torch_ffi::{Precision, libtorch_version, load_cuda, set_deterministic_algorithms, set_float32_matmul_precision};
use tch::{Kind, Tensor};

#[test]
fn the_process() {
    assert_eq!(libtorch_version().unwrap(), "2.11.0");

    // The file is looked for beside the libtorch that was loaded, wherever that is.
    let beside = std::path::Path::new(env!("LIBTORCH_LIB")).join("libtorch_cuda.so");
    assert_eq!(load_cuda().unwrap(), beside.exists());

    // Each precision is a promise about the error, not about the bits: float stays within its own, and the
    // fastest within a few of bf16's.
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

    // Trap: without this the backward of an index with duplicates differs from run to run on two threads.
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
