//! JPEG decoding with libjpeg, as PIL does.

use neva_jpeg::{Decoder, JpegError};

use super::{RgbImage, buffers, limits::check_size};

/// Decodes baseline and progressive JPEG: gray, YCbCr, RGB, CMYK and YCCK.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let decoder = open(bytes)?;
    let header = decoder.header();
    let (width, height) = (header.width, header.height);
    check_size(width, height)?;
    let data = decoder
        .decode(buffers::take(width * height * 3))
        .map_err(|error| reason(&error, bytes, "image data"))?;
    Ok(RgbImage { width, height, data })
}

/// Returns width and height.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let header = open(bytes)?.header();
    Ok((header.width, header.height))
}

fn open(bytes: &[u8]) -> Result<Decoder<'_>, String> {
    Decoder::new(bytes).map_err(|error| reason(&error, bytes, "header"))
}

fn reason(error: &JpegError, bytes: &[u8], section: &str) -> String {
    match error {
        JpegError::Truncated => format!(
            "the JPEG file is truncated: it ends after {} bytes, within the {section}; copy or download it again",
            bytes.len()
        ),
        error => format!("broken JPEG file: {error}"),
    }
}
