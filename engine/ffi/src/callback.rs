//! Runs Rust callbacks for C++: an error or panic becomes a status and never unwinds into C++.

use std::any::Any;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use crate::error::Error;
use crate::sys::{self, Status};

/// Error type of callbacks: `?` converts every error type to it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Runs `body`. Converts an error or panic to a status whose text starts with `name`.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Result<(), BoxError>) -> Status {
    // AssertUnwindSafe: state that a panic of `body` leaves inconsistent is never used again (see the callers' locks).
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status {
            kind: sys::OK,
            message: null_mut(),
        },
        Ok(Err(error)) => match as_crate_error(&*error) {
            // A panic of a nested callback is reported as a panic.
            Some(Error::Panic(text)) => failure(sys::PANIC, &format!("{name}: {text}")),
            _ => failure(sys::CALLBACK, &format!("{name}: {}", chain(&*error))),
        },
        Err(panic) => failure(sys::PANIC, &format!("{name}: panicked: {}", panic_text(&*panic))),
    }
}

fn as_crate_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    error.downcast_ref()
}

/// Formats an error and its causes. Skips a cause whose text is already contained.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a value that is not a string")
}

fn failure(kind: i32, text: &str) -> Status {
    let text: Vec<u8> = text.bytes().filter(|byte| *byte != 0).chain([0]).collect();
    // SAFETY: `text` ends with its only NUL.
    let message = unsafe { libc::strdup(text.as_ptr().cast()) };
    Status { kind, message }
}
