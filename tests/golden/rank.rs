//! The rank program of the golden traces, with a custom data module; `golden-rank kernels GPU` compares the kernels of a GPU
//! with libtorch's formulae.

mod batches;
mod kernels;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, command, gpu] = arguments.as_slice()
        && command == "kernels"
    {
        return kernels::compare(gpu);
    }
    neva_engine::rank_main(batches::registry())
}
