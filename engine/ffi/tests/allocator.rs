//! The counting allocator. There is one test, because the allocator counts all threads of the process.

use neva_torch_ffi::allocator::{install, live, peak, reset_peak};
use tch::{Kind, Tensor};

const MIB: u64 = 1 << 20;

fn mebibytes(count: i64) -> Tensor {
    Tensor::zeros([count << 18], tch::kind::FLOAT_CPU)
}

#[test]
fn counts_live_and_peak_bytes() {
    let before = mebibytes(1);
    install().unwrap();
    std::thread::spawn(install).join().unwrap().unwrap();
    let start = live();

    let tensor = mebibytes(2);
    assert_eq!(live() - start, 2 * MIB);
    drop(mebibytes(8));
    assert_eq!((live() - start, peak() - start), (2 * MIB, 10 * MIB));
    reset_peak();
    assert_eq!(peak(), live());

    // Views and empty tensors need no memory; other kinds need their own size.
    let others = (
        tensor.view([2, -1]),
        Tensor::zeros([0], tch::kind::FLOAT_CPU),
        tensor.to_kind(Kind::BFloat16),
    );
    assert_eq!(live() - start, 3 * MIB);
    drop(others);

    // One tensor is freed on a different thread than it was allocated on; one was allocated before the count began.
    std::thread::spawn(move || drop((tensor, before))).join().unwrap();
    assert_eq!(live(), start);

    // Kernels rely on this alignment.
    let odd = Tensor::zeros([3], (Kind::Uint8, tch::Device::Cpu));
    assert_eq!(odd.data_ptr() as usize % 64, 0);
    let mut grown = odd.shallow_clone();
    let _ = grown.resize_([MIB as i64]);
    assert_eq!(live() - start, MIB);
    drop((odd, grown));
    assert_eq!(live(), start);
}
