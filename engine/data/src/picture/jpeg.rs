//! JPEG through zune-jpeg: pure Rust, so that a plain machine builds it (libjpeg-turbo wants cmake and nasm).
//!
//! Its inverse DCT and chroma upsampling round differently from libjpeg-turbo's, which PIL uses. Measured on 23 pictures,
//! baseline and progressive, mean absolute difference per byte: 0.01 where chroma is not subsampled (4:4:4), 0.1 at
//! 4:2:2, 0.2 to 0.3 at 4:2:0; at most 6 anywhere.

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::{Rgb, decode::check_size};

/// Decodes baseline and progressive JPEG: gray, YCbCr, RGB, and (inverted, as Adobe writes them) CMYK and YCCK.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    check_whole(bytes)?;
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
    Ok(Rgb { width, height, data })
}

/// The decoder fills what is missing with gray; PIL refuses a file that ends before its end marker, and so do we.
fn check_whole(bytes: &[u8]) -> Result<(), String> {
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
    let part = if in_scan { "picture" } else { "header" };
    Err(format!(
        "the JPEG file is truncated: it ends after {} bytes, within the {part}",
        bytes.len()
    ))
}
