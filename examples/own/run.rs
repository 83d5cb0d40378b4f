//! A custom launcher: `neva-run` with custom factories; its ranks run the program `own-rank` beside it.
//!
//!     cargo build --release --examples
//!     target/release/examples/own-run examples/own/recipe.yaml

mod factories;

use neva_run::config::Factories;
use std::process::ExitCode;

fn main() -> ExitCode {
    let factories = Factories::builtin().try_with("Optim", "decays_at_the_end", factories::decays_at_the_end);
    neva_run::cli_main_with_factories("own-rank", factories)
}
