//! Sizes of images that are refused.

/// Maximum number of pixels: above it, PIL raises `DecompressionBombError`.
pub(super) const MAX_PIXELS: usize = 178_956_970;

/// Maximum length of an edge, and maximum ratio of the edges. PIL has no such limits. But a narrow strip that is expanded
/// to a square, or whose shorter edge is scaled up, exhausts the memory like a decompression bomb.
const MAX_EDGE: usize = 30_000;
const MAX_ASPECT: usize = 200;

/// Rejects images that would exhaust the memory, before anything is allocated.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), String> {
    let (long, short) = (width.max(height), width.min(height));
    if short == 0 {
        Err("the image has no pixels".to_owned())
    } else if long.saturating_mul(short) > MAX_PIXELS {
        Err(format!(
            "{width} x {height} is more than {MAX_PIXELS} pixels (a decompression bomb?)"
        ))
    } else if long > MAX_EDGE || long > short.saturating_mul(MAX_ASPECT) {
        Err(format!(
            "{width} x {height} is longer than {MAX_EDGE} pixels, or than {MAX_ASPECT} times its width"
        ))
    } else {
        Ok(())
    }
}
