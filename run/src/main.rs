//! The program `neva-run`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    neva_run::cli_main()
}
