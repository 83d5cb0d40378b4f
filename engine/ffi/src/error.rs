//! What can go wrong across the border, and how a status of the C++ side becomes an [`Error`].

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use crate::sys::{self, Status};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call into libtorch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch refused or failed; `message` is its own, without its C++ backtrace.
    #[error("{op}: {message}")]
    Torch {
        /// What was asked for.
        op: &'static str,
        /// libtorch's text.
        message: String,
    },
    /// A Rust callback returned an error. The text names the callback and holds the whole chain of causes.
    #[error("{0}")]
    Callback(String),
    /// A Rust callback panicked.
    #[error("{0}")]
    Panic(String),
    /// Nothing came from the other ranks in time.
    #[error("{op}: nothing after {after:?}; {message}")]
    Deadline {
        /// What was waited for.
        op: &'static str,
        /// How long the call was prepared to wait.
        after: Duration,
        /// What libtorch, or this crate, knows about it.
        message: String,
    },
    /// The TCP store could not be opened or reached.
    #[error("cannot {action} the store at {host}:{port} (timeout {timeout:?}): {message}")]
    Connect {
        /// `serve`, `reach` or `join`.
        action: &'static str,
        /// Host name or address of the server.
        host: String,
        /// Its port.
        port: u16,
        /// How long the call was prepared to wait.
        timeout: Duration,
        /// libtorch's text.
        message: String,
    },
    /// The caller passed something that cannot work; the text says what and what would.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    /// What `tch` reports about an operation of ours.
    pub(crate) fn torch(op: &'static str, error: &tch::TchError) -> Self {
        Self::Torch {
            op,
            message: error.to_string(),
        }
    }

    /// Turns libtorch's "timed out" texts into [`Error::Deadline`]; it has no exception type for them.
    pub(crate) fn deadline(self, after: Duration, what: impl Into<String>) -> Self {
        match self {
            Self::Torch { op, message } if is_timeout(&message) => {
                let what = what.into();
                let message = if what.is_empty() { message } else { format!("{what} ({message})") };
                Self::Deadline { op, after, message }
            }
            other => other,
        }
    }
}

fn is_timeout(message: &str) -> bool {
    ["timed out", "Timed out", "timeout after", "Timeout after", "Wait timeout"]
        .iter()
        .any(|text| message.contains(text))
}

impl Status {
    /// Takes the message of a failed call.
    pub(crate) fn check(self, op: &'static str) -> Result<()> {
        if self.kind == sys::OK {
            return Ok(());
        }
        let message = take_string(self.message);
        Err(match self.kind {
            sys::CALLBACK => Error::Callback(message),
            sys::PANIC => Error::Panic(message),
            _ => Error::Torch { op, message },
        })
    }
}

/// Copies a string that C++ allocated with malloc, and frees it.
pub(crate) fn take_string(text: *mut c_char) -> String {
    if text.is_null() {
        return "out of memory".to_owned();
    }
    // SAFETY: `text` is not null, and every function of cpp/ hands out strings made by strdup.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it came from malloc (as above), belongs to the receiver, and is not used again.
    unsafe { libc::free(text.cast()) };
    owned
}

/// A string for C++. NUL bytes, which it could not hold, are an [`Error::Argument`] that names `what`.
pub(crate) fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Argument(format!("{what} {text:?} holds a NUL byte")))
}

/// Milliseconds for C++, where 0 would mean "for ever" and a huge number would overflow a clock.
pub(crate) fn millis(duration: Duration) -> i64 {
    const YEAR: u128 = 365 * 24 * 3600 * 1000;
    i64::try_from(duration.as_millis().clamp(1, YEAR)).unwrap_or(i64::MAX)
}
