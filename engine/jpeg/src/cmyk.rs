//! PIL's conversion of CMYK to RGB, without a colour profile (`cmyk2rgb` in Pillow's `Convert.c`).

/// Converts a row. Files store inverted values, as Adobe's programs write them: 255 is no ink.
pub(crate) fn to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (&[c, m, y, k], to) in cmyk.as_chunks().0.iter().zip(rgb.as_chunks_mut().0) {
        *to = [c, m, y].map(|ink| k - product(255 - ink, k));
    }
}

/// Returns `a * b / 255`, rounded. It is never more than `b`.
fn product(a: u8, b: u8) -> u8 {
    let scaled = u32::from(a) * u32::from(b) + 128;
    (((scaled >> 8) + scaled) >> 8) as u8
}
