//! A rank program with a data module of its own: what ranks of the golden traces run.

mod batches;

use std::process::ExitCode;

fn main() -> ExitCode {
    neva_engine::rank_main(batches::registry())
}
