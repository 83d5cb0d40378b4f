//! libjpeg's error manager: its callbacks end a call by unwinding.
//!
//! A callback for a fatal error must not return to libjpeg. The C code is compiled with unwind tables (the feature
//! `unwinding` of mozjpeg-sys), so a Rust panic may pass through its frames. `catch` stops it above the call.
#![expect(unsafe_code, reason = "libjpeg passes raw pointers to its callbacks")]

use std::{
    ffi::{CStr, c_char, c_int},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use mozjpeg_sys::{JWRN_JPEG_EOF, jpeg_common_struct, jpeg_error_mgr};

/// Reason why a file is not decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JpegError {
    /// The bytes end within the header or the image.
    #[error("the file is truncated")]
    Truncated,
    /// A number of colour components other than 1, 3 and 4.
    #[error("{components} colour components: 1, 3 or 4 are supported")]
    Components {
        /// Number of components.
        components: usize,
    },
    /// An error that libjpeg reports.
    #[error("{0}")]
    Broken(String),
}

/// Replaces the callbacks of `manager`, so that an error unwinds with a [`JpegError`] and nothing is printed.
pub(crate) fn install(manager: &mut jpeg_error_mgr) {
    manager.error_exit = Some(error_exit);
    manager.emit_message = Some(emit_message);
    manager.output_message = Some(output_message);
}

/// Runs `call`, one call of libjpeg, and returns the error with which it was ended.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, JpegError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| match payload.downcast::<JpegError>() {
        Ok(error) => *error,
        Err(payload) => resume_unwind(payload),
    })
}

/// Ends the call: libjpeg found a fatal error.
unsafe extern "C-unwind" fn error_exit(info: &mut jpeg_common_struct) {
    // SAFETY: `Decompress` points `err` to a manager that lives as long as `info`, and nothing else uses it during the call.
    let manager = unsafe { &*info.err };
    // Unlike `panic!`, it does not call the panic hook, which would print.
    resume_unwind(Box::new(JpegError::Broken(message(manager))));
}

/// Ignores warnings, as PIL does. Only the end of the data ends the call: there, PIL's decoder waits for more data in vain.
unsafe extern "C-unwind" fn emit_message(info: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: as in `error_exit`.
    let manager = unsafe { &*info.err };
    if level < 0 && manager.msg_code == JWRN_JPEG_EOF {
        resume_unwind(Box::new(JpegError::Truncated));
    }
}

/// Prints nothing.
unsafe extern "C-unwind" fn output_message(_: &mut jpeg_common_struct) {}

/// Returns the text of the current message, with its numbers.
fn message(manager: &jpeg_error_mgr) -> String {
    let code = manager.msg_code;
    if !(0..=manager.last_jpeg_message).contains(&code) || manager.jpeg_message_table.is_null() {
        return format!("libjpeg's error {code}");
    }
    // SAFETY: the table has `last_jpeg_message + 1` entries, and `code` is one of their indices.
    let entry = unsafe { manager.jpeg_message_table.add(code as usize) };
    // SAFETY: `entry` points into the table, which is static and never changed.
    let text: *const c_char = unsafe { *entry }.cast();
    if text.is_null() {
        return format!("libjpeg's error {code}");
    }
    // SAFETY: an entry that is not null is a C string literal.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    fill_in(&text, &manager.msg_parm._bindgen_data_)
}

/// Replaces the conversions of a C format string (`%d`, `%u`, `%ld`, `%x`, `%02x`, `%c`) by integers, and drops `%s`.
fn fill_in(format: &str, numbers: &[u32]) -> String {
    let mut numbers = numbers.iter();
    let mut pieces = format.split('%');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let Some(end) = piece.find(|c: char| c.is_ascii_alphabetic() && c != 'l') else {
            text.push_str(piece);
            continue;
        };
        let number = numbers.next().copied().unwrap_or_default();
        let shown = match piece.as_bytes()[end] {
            b'x' => format!("{number:02x}"),
            b's' => String::new(),
            _ => number.cast_signed().to_string(),
        };
        text.push_str(&shown);
        text.push_str(&piece[end + 1..]);
    }
    text
}
