//! JPEG decoding with zune-jpeg. It is pure Rust, so no further tools are needed (libjpeg-turbo needs cmake and nasm).
//!
//! Its inverse DCT and chroma upsampling round differently from libjpeg-turbo's, which PIL uses. The mean absolute
//! difference per byte, measured on 23 baseline and progressive images, is 0.01 without chroma subsampling (4:4:4), 0.1 at
//! 4:2:2, and 0.2 to 0.3 at 4:2:0. The maximum difference is 6.

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::{RgbImage, limits::check_size};

/// Decodes baseline and progressive JPEG: gray, YCbCr, RGB, and (inverted, as Adobe writes them) CMYK and YCCK.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    check_complete(bytes)?;
    let broken = |error: zune_jpeg::errors::DecodeErrors| format!("broken JPEG file: {error}");
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(broken)?;
    let (width, height) = decoder.dimensions().ok_or("broken JPEG file: no frame header")?;
    check_size(width, height)?;
    let data = decoder.decode().map_err(broken)?;
    if data.len() != width * height * 3 {
        return Err(format!("broken JPEG file: {} bytes for {width} x {height} pixels", data.len()));
    }
    Ok(RgbImage { width, height, data })
}

/// Rejects a file without an end marker, as PIL does. The decoder itself would fill the missing pixels with gray.
fn check_complete(bytes: &[u8]) -> Result<(), String> {
    let mut at = 2;
    let mut in_scan = false;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xff, 0xd9) => return Ok(()),
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2, // stuffing and markers without a body
            (0xff, 0xff) => at += 1,                      // a fill byte
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { break };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                in_scan |= marker == 0xda;
            }
            _ => at += 1, // entropy-coded data, or garbage between segments
        }
    }
    let section = if in_scan { "image data" } else { "header" };
    Err(format!(
        "the JPEG file is truncated: it ends after {} bytes, within the {section}",
        bytes.len()
    ))
}
