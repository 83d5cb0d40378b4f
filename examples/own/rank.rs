//! A rank program of one's own: `neva-rank` with a longer list of types.

mod types;

use neva_engine::{Registry, rank_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let registry = Registry::builtin()
        .data::<types::Colours>("own::Colours")
        .callback::<types::BestLoss>("own::BestLoss");
    rank_main(registry)
}
