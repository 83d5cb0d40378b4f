//! PIL's conversion of CMYK to RGB, without a colour profile (`cmyk2rgb` in Pillow's `Convert.c`).

/// Converts a pixel of inverted values, as Adobe's programs write them to JPEG files: 255 is no ink.
#[must_use]
pub fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| black - product(255 - ink, black))
}

/// Returns `a * b / 255`, rounded. It is never more than `b`.
fn product(a: u8, b: u8) -> u8 {
    let scaled = u32::from(a) * u32::from(b) + 128;
    (((scaled >> 8) + scaled) >> 8) as u8
}
