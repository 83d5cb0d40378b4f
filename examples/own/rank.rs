//! A custom rank program: `neva-rank` with additional types.

mod types;

use neva_engine::{Registry, rank_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let registry = Registry::builtin()
        .data::<types::Colours>("own::Colours")
        .callback::<types::BestLoss>("own::BestLoss");
    rank_main(registry)
}
