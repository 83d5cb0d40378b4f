//! The rank program of the golden traces, with a custom data module.

mod batches;

use std::process::ExitCode;

fn main() -> ExitCode {
    neva_engine::rank_main(batches::registry())
}
