//! The report of a bug, as a document. This program is both the test and the launcher that has the bug.

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use tracing_subscriber::{Layer, layer, prelude::*};

/// Set if this program is the launcher.
const LAUNCHER: &str = "OWN_LAUNCHER";

fn main() -> ExitCode {
    if std::env::var_os(LAUNCHER).is_some() {
        tracing_subscriber::registry().with(FragileLog).init();
        return neva_run::cli_main_with("own-rank");
    }
    let here = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("own-run"));
    trycmd::TestCases::new()
        .case("tests/bug.md")
        .register_bin("own-run", here.as_path())
        .env(LAUNCHER, "1")
        .env("NEVA_RANK", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/neva-rank"))
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "0")
        .timeout(Duration::from_secs(120))
        .run();
    ExitCode::SUCCESS
}

/// A log that panics on the field `file`.
struct FragileLog;

impl<S: tracing::Subscriber> Layer<S> for FragileLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        event.record(&mut |field: &tracing::field::Field, _: &dyn fmt::Debug| {
            assert!(field.name() != "file", "no room for `{field}`");
        });
    }
}
