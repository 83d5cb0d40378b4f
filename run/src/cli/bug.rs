//! What is said of a panic: a bug of ours, and what to send of it.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    env::consts::{ARCH, OS},
    fmt::Write as _,
    panic::PanicHookInfo,
};

use neva_executors::Process;
use neva_schemas::{exit_class, without_secrets};
use serde_json::{Value as Json, json};

use super::report;

/// What to do about it.
const ADVICE: &str = "please report it: send these lines, and the files that the command names";

/// The panic hook: what happened and where, and what a report of it needs.
pub(super) fn tell(panic: &PanicHookInfo<'_>) {
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
        " set RUST_BACKTRACE=1 and do it once more".to_owned()
    };
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "  version: neva-run {}, {OS} {ARCH}\n  command: {}\n  backtrace:{trace}",
        env!("CARGO_PKG_VERSION"),
        command()
    );
    report::say(std::io::stderr(), text);
}

/// A panic, for programs: the error of a verb that did not come to an end.
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

/// The command line, as a shell reads it back; secrets are left out, since it is sent to others.
fn command() -> Process {
    Process {
        argv: std::env::args_os().map(|word| without_secrets(&word.to_string_lossy())).collect(),
        env: Default::default(),
        working_directory: None,
        log: Default::default(),
    }
}
