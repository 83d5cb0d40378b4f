//! Errors of calls into libtorch, and the conversion of a C++ status to an [`Error`].

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use crate::sys::{self, Status};

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of a call into libtorch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch returned an error; `message` is its text without the C++ backtrace.
    #[error("{op}: {message}")]
    Torch {
        /// Name of the operation.
        op: &'static str,
        /// libtorch's text.
        message: String,
    },
    /// A Rust callback returned an error. The text names the callback and contains the chain of causes.
    #[error("{0}")]
    Callback(String),
    /// A Rust callback panicked.
    #[error("{0}")]
    Panic(String),
    /// The other ranks did not respond before the deadline.
    #[error("{op}: timed out after {after:?}; {message}")]
    Deadline {
        /// Name of the operation.
        op: &'static str,
        /// Timeout of the call.
        after: Duration,
        /// Further details of libtorch or of this crate.
        message: String,
    },
    /// The TCP store could not be served, reached or joined.
    #[error("cannot {action} the store at {host}:{port} (timeout {timeout:?}): {message}")]
    Connect {
        /// `serve`, `reach` or `join`.
        action: &'static str,
        /// Host name or address of the server.
        host: String,
        /// Its port.
        port: u16,
        /// Timeout of the call.
        timeout: Duration,
        /// libtorch's text.
        message: String,
    },
    /// An invalid argument; the text names it and says what is valid.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    /// Converts an error of `tch`.
    pub(crate) fn torch(op: &'static str, error: &tch::TchError) -> Self {
        Self::Torch {
            op,
            message: error.to_string(),
        }
    }

    /// Converts libtorch's timeout errors to [`Error::Deadline`]. They are recognised by their text, because libtorch has no
    /// exception type for them.
    pub(crate) fn deadline(self, after: Duration, details: impl Into<String>) -> Self {
        match self {
            Self::Torch { op, message } if is_timeout(&message) => {
                let details = details.into();
                let message = if details.is_empty() {
                    message
                } else {
                    format!("{details} ({message})")
                };
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
    /// Converts the status to a result. Frees the message.
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

/// Copies a string that C++ allocated with malloc, and frees the original.
pub(crate) fn take_string(text: *mut c_char) -> String {
    if text.is_null() {
        return "out of memory".to_owned();
    }
    // SAFETY: `text` is not null, and every function of cpp/ returns strings made by strdup.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it was allocated by malloc (see above), the receiver owns it, and it is not used again.
    unsafe { libc::free(text.cast()) };
    owned
}

/// Converts a string for C++. Returns an [`Error::Argument`] that names `what` if it contains a NUL byte.
pub(crate) fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Argument(format!("{what} {text:?} contains a NUL byte")))
}

/// Converts a duration to milliseconds for C++. At least 1, because 0 means no timeout; at most one year, because a huge
/// number would overflow a clock.
pub(crate) fn millis(duration: Duration) -> i64 {
    const YEAR: u128 = 365 * 24 * 3600 * 1000;
    i64::try_from(duration.as_millis().clamp(1, YEAR)).unwrap_or(i64::MAX)
}
