//! Safe wrapper of libjpeg's decompressor.
#![expect(unsafe_code, reason = "the calls of libjpeg")]

use std::{
    ffi::{c_int, c_ulong},
    marker::PhantomData,
    mem,
    ptr::NonNull,
};

use mozjpeg_sys::{
    J_COLOR_SPACE, J_DCT_METHOD, JPEG_LIB_VERSION, jpeg_CreateDecompress, jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr,
    jpeg_mem_src, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress, jpeg_std_error,
};

use crate::error_manager::{JpegError, catch, install};

/// A decompressor that reads from bytes.
///
/// After an error, libjpeg allows only its destruction. Every method takes the value or fails then: see `failed`.
pub(crate) struct Decompress<'a> {
    info: Box<jpeg_decompress_struct>,
    /// Pointed to by `info`. A raw pointer, since libjpeg uses it in every call.
    errors: NonNull<jpeg_error_mgr>,
    /// Bytes of a decoded row, once started.
    row: usize,
    /// The error that ended a call.
    failed: Option<JpegError>,
    /// libjpeg reads them in every call.
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Decompress<'a> {
    /// Creates a decompressor of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, JpegError> {
        // SAFETY: the structure has integers, pointers and optional functions only.
        let mut errors: Box<jpeg_error_mgr> = Box::new(unsafe { mem::zeroed() });
        // SAFETY: it fills in the structure that it gets, and keeps no pointer to it.
        unsafe { jpeg_std_error(&mut errors) };
        install(&mut errors);
        // SAFETY: the structure has integers, floats, pointers, optional functions and enums with a variant 0 only.
        let info: Box<jpeg_decompress_struct> = Box::new(unsafe { mem::zeroed() });
        let mut new = Self {
            info,
            errors: NonNull::from(Box::leak(errors)),
            row: 0,
            failed: None,
            bytes: PhantomData,
        };
        new.info.common.err = new.errors.as_ptr();
        let size = size_of::<jpeg_decompress_struct>();
        new.call(|info| {
            // SAFETY: `err` is set, as it must be; version and size are those that mozjpeg-sys was built with.
            unsafe { jpeg_CreateDecompress(info, JPEG_LIB_VERSION, size) };
        })?;
        let (start, len) = (bytes.as_ptr(), bytes.len() as c_ulong);
        new.call(|info| {
            // SAFETY: the bytes live as long as this value (`'a`), and libjpeg only reads them.
            unsafe { jpeg_mem_src(info, start, len) };
        })?;
        Ok(new)
    }

    /// Reads the header. Returns width, height and number of components.
    pub(crate) fn read_header(&mut self) -> Result<(usize, usize, usize), JpegError> {
        self.call(|info| {
            // SAFETY: the decompressor is created and has a source.
            unsafe { jpeg_read_header(info, c_int::from(true)) };
        })?;
        let info = &self.info;
        Ok((
            info.image_width as usize,
            info.image_height as usize,
            usize::try_from(info.num_components).unwrap_or(0),
        ))
    }

    /// Starts decoding to CMYK or RGB; a row has `channels` bytes for each pixel.
    pub(crate) fn start(&mut self, cmyk: bool, channels: usize) -> Result<(), JpegError> {
        self.info.out_color_space = if cmyk { J_COLOR_SPACE::JCS_CMYK } else { J_COLOR_SPACE::JCS_RGB };
        self.info.dct_method = J_DCT_METHOD::JDCT_ISLOW;
        self.call(|info| {
            // SAFETY: the header is read; libjpeg itself refuses another state.
            unsafe { jpeg_start_decompress(info) };
        })?;
        let row = self.info.output_width as usize * channels;
        let expected = self.info.image_width as usize * channels;
        if row != expected || usize::try_from(self.info.output_components) != Ok(channels) {
            return Err(JpegError::Broken(format!("a row of {row} bytes instead of {expected}")));
        }
        self.row = row;
        Ok(())
    }

    /// Decodes the next row to `row`, which has exactly its length.
    pub(crate) fn read_row(&mut self, row: &mut [u8]) -> Result<(), JpegError> {
        if self.row == 0 || row.len() != self.row {
            return Err(JpegError::Broken(format!(
                "a buffer of {} bytes for a row of {}",
                row.len(),
                self.row
            )));
        }
        let mut start = row.as_mut_ptr();
        let read = self.call(|info| {
            // SAFETY: `start` is the array of one pointer to a row, which has the length that libjpeg writes.
            unsafe { jpeg_read_scanlines(info, &raw mut start, 1) }
        })?;
        // A memory source never suspends: at the end of its data, `emit_message` ends the call.
        if read == 1 { Ok(()) } else { Err(JpegError::Truncated) }
    }

    /// Makes a call that may end with an error. Fails at once if an earlier call did.
    fn call<T>(&mut self, call: impl FnOnce(&mut jpeg_decompress_struct) -> T) -> Result<T, JpegError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let outcome = catch(|| call(&mut self.info));
        self.failed = outcome.as_ref().err().cloned();
        outcome
    }
}

impl Drop for Decompress<'_> {
    fn drop(&mut self) {
        // SAFETY: it frees what the decompressor allocated; allowed in any state, also after an error and before the
        // creation (`mem` is null then). It calls no callback of the error manager.
        unsafe { jpeg_destroy_decompress(&mut self.info) };
        // SAFETY: `errors` is from `Box::leak`, and the only user of it, the decompressor, is destroyed.
        drop(unsafe { Box::from_raw(self.errors.as_ptr()) });
    }
}

/// Returns whether the decoder uses vector instructions: `nasm` was there when it was built, and this CPU has them.
#[must_use]
pub fn has_simd() -> bool {
    unsafe extern "C" {
        /// Returns nonzero if the inverse DCT has an implementation in assembly for this CPU (libjpeg-turbo's `jsimd.h`).
        fn jsimd_can_idct_islow() -> c_int;
    }
    // SAFETY: it has no arguments; it only reads the CPU's features, into a variable of this thread.
    unsafe { jsimd_can_idct_islow() != 0 }
}
