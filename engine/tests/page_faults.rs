//! A training step on the CPU takes no new pages from the kernel: memory that one step frees serves the next. A test program of its
//! own, since the setting is the process's.
#![cfg(target_os = "linux")]

#[path = "../benches/setting/mod.rs"]
mod setting;

use neva_engine::comm::Mesh;
use setting::{microbatches, trainer};
use std::collections::BTreeSet;
use std::fs::read_to_string;
use tch::{Device, Kind, Tensor};

/// Minor page faults of this process so far: the tenth field of `stat`, counted from the program's name.
fn faults() -> u64 {
    let stat = read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    after_name.split_whitespace().nth(7).expect("ten fields").parse().expect("a number")
}

/// Returns the faults of the quietest of some steps after the first ones.
fn faults_of_a_step() -> u64 {
    let finetune = setting::finetune(256, 4, 2);
    let mesh = Mesh::single();
    let microbatches = microbatches(&finetune, &mesh);
    let mut trainer = trainer(&finetune, mesh);
    let mut least = u64::MAX;
    for step in 0..8 {
        let before = faults();
        trainer.step(&microbatches, |peak| peak, step).expect("a step");
        if step > 2 {
            least = least.min(faults() - before);
        }
    }
    least
}

/// Freed blocks serve the next tensors of their size, although other tensors lie behind them. A block beside memory that was free
/// before is joined with it, and may serve others.
fn assert_freed_blocks_are_reused() {
    const FREED: usize = 8;
    let bytes = || Tensor::zeros([3 << 20], (Kind::Uint8, Device::Cpu));
    let place = |tensor: &Tensor| tensor.data_ptr() as usize;
    let (freed, _kept): (Vec<_>, Vec<_>) = (0..FREED).map(|_| (bytes(), bytes())).unzip();
    let places: BTreeSet<_> = freed.iter().map(place).collect();
    assert!(places.iter().all(|place| place % 64 == 0), "kernels rely on this alignment");
    drop(freed);
    let next: Vec<_> = (0..FREED).map(|_| bytes()).collect();
    let reused = next.iter().filter(|tensor| places.contains(&place(tensor))).count();
    assert!(reused > FREED / 2, "{reused} of {FREED} blocks");
}

#[test]
fn a_step_takes_no_new_pages() {
    tch::set_num_threads(1);
    let before = faults_of_a_step();
    if neva_torch_ffi::keep_freed_memory() {
        assert_freed_blocks_are_reused();
        let after = faults_of_a_step();
        // A few are other threads' of the test's harness.
        assert!(after < 32, "{after} page faults in a step, {before} without the setting");
    }
}
