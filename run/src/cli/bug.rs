//! Bug report of a panic: the message and what to send to us.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    env::consts::{ARCH, OS},
    fmt::Write as _,
    panic::PanicHookInfo,
};

use neva_executors::Process;
use neva_schemas::{exit_class, mask_secrets};
use serde_json::{Value as Json, json};

use super::report;

/// Advice printed with every bug.
const ADVICE: &str = "please report it: send these lines, and the files that the command names";

/// Panic hook: prints the message, its place, and what a bug report needs.
pub(super) fn print_report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let mut text = format!(
        "neva-run: this is a bug: {} ({place})\n  help: {ADVICE}\n",
        message(panic.payload())
    );
    let backtrace = Backtrace::capture();
    let is_traced = backtrace.status() == BacktraceStatus::Captured;
    let trace = if is_traced {
        format!("\n{backtrace}")
    } else {
        " set RUST_BACKTRACE=1 and run the command again".to_owned()
    };
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "  version: neva-run {}, {OS} {ARCH}\n  command: {}\n  backtrace:{trace}",
        env!("CARGO_PKG_VERSION"),
        command()
    );
    // Not through the printer, which may have the bug itself. If this cannot be written, the exit code still shows it.
    let _ = report::print_line(std::io::stderr(), text);
}

/// Returns a panic as a JSON error.
pub(super) fn as_json(payload: &(dyn Any + Send)) -> Json {
    let message = format!("this is a bug: {}", message(payload));
    json!({ "class": exit_class::BUG, "message": message, "help": ADVICE, "problems": [], "failure": null })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

/// Returns the command line, quoted for a shell and without secrets: users send it to others.
fn command() -> Process {
    Process {
        argv: std::env::args_os().map(|word| mask_secrets(&word.to_string_lossy())).collect(),
        env: Default::default(),
        working_directory: None,
        log: Default::default(),
    }
}
