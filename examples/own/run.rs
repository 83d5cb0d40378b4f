//! A launcher of one's own: `neva-run`, whose ranks are the program `own-rank` beside it.
//!
//!     cargo build --release --examples
//!     target/release/examples/own-run examples/own/recipe.yaml

use std::process::ExitCode;

fn main() -> ExitCode {
    neva_run::cli_main_with("own-rank")
}
