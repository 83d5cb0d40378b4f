//! Orientation of an image, as PIL's `ImageOps.exif_transpose` applies it.

use super::{RgbImage, png};

/// Returns the orientation that the EXIF data of a JPEG, PNG or WebP file names, from 1 (upright) to 8. If there is none,
/// that of a JPEG's XMP data. Broken data counts as none, as in PIL.
pub(super) fn orientation(bytes: &[u8]) -> u16 {
    let found = match bytes {
        [0xff, 0xd8, 0xff, ..] => jpeg(bytes),
        _ if bytes.starts_with(&png::SIGNATURE) => png::exif(bytes).and_then(tag),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(bytes).and_then(tag),
        _ => None,
    };
    found.unwrap_or(1)
}

/// Returns an image whose pixels are stored in `orientation`, turned upright. Unknown orientations change nothing.
pub(super) fn transposed(image: RgbImage, orientation: u16) -> RgbImage {
    let (width, height) = (image.width, image.height);
    // Returns the stored column and row of an upright pixel.
    let from: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        2 => |x, y, right, _| (right - x, y),
        3 => |x, y, right, bottom| (right - x, bottom - y),
        4 => |x, y, _, bottom| (x, bottom - y),
        5 => |x, y, _, _| (y, x),
        6 => |x, y, _, bottom| (y, bottom - x),
        7 => |x, y, right, bottom| (right - y, bottom - x),
        8 => |x, y, right, _| (right - y, x),
        _ => return image,
    };
    let (upright_width, upright_height) = upright(width, height, orientation);
    let (pixels, _) = image.data.as_chunks::<3>();
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..upright_height {
        for x in 0..upright_width {
            let (column, row) = from(x, y, width - 1, height - 1);
            data.extend_from_slice(&pixels[row * width + column]);
        }
    }
    RgbImage {
        width: upright_width,
        height: upright_height,
        data,
    }
}

/// Returns width and height of an upright image that is stored as `width x height`.
pub(super) fn upright(width: usize, height: usize, orientation: u16) -> (usize, usize) {
    if (5..=8).contains(&orientation) {
        (height, width)
    } else {
        (width, height)
    }
}

/// Reads the segments in front of the image data.
fn jpeg(bytes: &[u8]) -> Option<u16> {
    const EXIF: &[u8] = b"Exif\0\0";
    const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let (mut at, mut of_xmp) = (2, None);
    loop {
        let &[0xff, marker] = bytes.get(at..at + 2)? else { return of_xmp };
        if marker == 0xff {
            at += 1;
            continue;
        }
        if marker == 0xda {
            return of_xmp;
        }
        let length = usize::from(u16::from_be_bytes(*bytes.get(at + 2..at + 4)?.first_chunk()?));
        let Some(segment) = bytes.get(at + 4..at + 2 + length) else {
            return of_xmp;
        };
        if marker == 0xe1 {
            if let Some(found) = segment.strip_prefix(EXIF).and_then(tag) {
                return Some(found);
            }
            of_xmp = of_xmp.or(segment.strip_prefix(XMP).and_then(xmp));
        }
        at += 2 + length;
    }
}

/// Returns the chunk `EXIF` of a WebP file.
fn webp(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let name = bytes.get(at..at + 4)?;
        let length = u32::from_le_bytes(*bytes.get(at + 4..at + 8)?.first_chunk()?) as usize;
        let data = bytes.get(at + 8..(at + 8).checked_add(length)?)?;
        if name == b"EXIF" {
            return Some(data);
        }
        at += 8 + length.next_multiple_of(2);
    }
}

/// Reads the tag 0x0112 of the first directory of EXIF data.
fn tag(mut data: &[u8]) -> Option<u16> {
    while let Some(rest) = data.strip_prefix(b"Exif\0\0") {
        data = rest;
    }
    let little = match data.first_chunk()? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *data.get(at..at.checked_add(2)?)?.first_chunk()?;
        Some(if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let long = |at: usize| {
        let bytes = *data.get(at..at.checked_add(4)?)?.first_chunk()?;
        Some(if little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    let entry = (0..entries)
        .map(|index| directory + 2 + 12 * index)
        .find(|&entry| short(entry) == Some(0x0112))?;
    match short(entry + 2)? {
        1 => data.get(entry + 8).copied().map(u16::from),
        3 => short(entry + 8),
        4 => long(entry + 8)?.try_into().ok(),
        _ => None,
    }
}

/// Reads `tiff:Orientation` of XMP data, an attribute or an element.
fn xmp(data: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(data);
    text.split("tiff:Orientation").skip(1).find_map(|rest| {
        let value = rest.strip_prefix("=\"").or(rest.strip_prefix('>'))?;
        value.chars().next()?.to_digit(10).map(|digit| digit as u16)
    })
}
