//! The allocator that reuses freed blocks, installed while oneDNN computes. A test program of its own, since the allocator serves
//! the whole process.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tch::{Kind, Tensor};

/// A convolution copies its operands into memory of oneDNN's tensors, which take it from one allocator and give it to another
/// if that is installed in between. Convolutions take some 50 ms.
#[test]
fn blocks_of_the_allocator_before_are_freed() {
    tch::set_num_threads(1);
    let (started, starts) = channel();
    let convolutions = thread::spawn(move || {
        let ones = |size: [i64; 4]| Tensor::ones(size, tch::kind::FLOAT_CPU);
        let (x, kernel) = (ones([1, 64, 192, 192]), ones([64, 64, 3, 3]));
        for _ in 0..8 {
            started.send(()).unwrap();
            let y = x.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1).unwrap();
            assert_eq!(y.max().to_kind(Kind::Double).double_value(&[]), f64::from(64 * 9));
        }
    });
    for _ in 0..3 {
        starts.recv().unwrap();
    }
    // Within the third one.
    let _ = starts.recv_timeout(Duration::from_millis(10));
    neva_torch_ffi::keep_freed_memory();
    convolutions.join().unwrap();
}
