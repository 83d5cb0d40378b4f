//! Sizes of images that are refused.

/// Maximum number of pixels: above it, PIL raises `DecompressionBombError`.
pub(super) const MAX_PIXELS: usize = 178_956_970;

/// Maximum length of an edge. PIL has no such limit. It bounds the memory of a strip that is resized.
const MAX_EDGE: usize = 30_000;

/// Rejects images that would exhaust the memory, before anything is allocated.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), String> {
    let (long, short) = (width.max(height), width.min(height));
    if short == 0 {
        Err("the image has no pixels".to_owned())
    } else if long.saturating_mul(short) > MAX_PIXELS {
        Err(format!(
            "the image of {width} x {height} has more than {MAX_PIXELS} pixels, the limit (PIL's, against decompression bombs): scale it \
             down"
        ))
    } else if long > MAX_EDGE {
        Err(format!(
            "the image of {width} x {height} has an edge of {long} pixels, the limit is {MAX_EDGE}: cut it or scale it down"
        ))
    } else {
        Ok(())
    }
}
