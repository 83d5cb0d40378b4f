//! TIFF as PIL reads it: the first image, turned upright by its orientation tag, which PIL applies to this format alone.

use std::{borrow::Cow, io::Cursor};

use tiff::{
    ColorType, TiffError,
    decoder::{Decoder, DecodingResult, Limits},
    tags::{ByteOrder, Tag},
};

use super::{RgbImage, exif, limits::check_size};

type Reader<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

/// Decodes a file.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut reader = open(bytes.into())?;
    let (width, height) = reader.dimensions().map_err(broken)?;
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let mut number = |tag| reader.find_tag_unsigned::<u16>(tag).map_err(broken);
    let orientation = number(Tag::Orientation)?.unwrap_or(1);
    let photometric = number(Tag::PhotometricInterpretation)?.unwrap_or(WHITE_IS_ZERO);
    let planar = number(Tag::PlanarConfiguration)? == Some(2);
    if number(Tag::FillOrder)? == Some(2) {
        return Err(unsupported("its bits are in reverse order (FillOrder 2)"));
    }
    let premultiplied = reader.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(broken)?;
    let premultiplied = premultiplied.is_some_and(|extra| extra.first() == Some(&1));
    let palette = match photometric {
        PALETTE => Some(reader.get_tag_u16_vec(Tag::ColorMap).map_err(broken)?),
        _ => None,
    };
    if palette.is_some() {
        // The crate reads gray images only where one sample is a pixel.
        reader = open(as_gray(bytes, &mut reader)?.into())?;
    }

    let colour = reader.colortype().map_err(broken)?;
    let mut samples = DecodingResult::U8(Vec::new());
    reader.read_image_to_buffer(&mut samples).map_err(broken)?;
    let is_gray = matches!(colour, ColorType::Gray(_));
    let samples = match samples {
        DecodingResult::U8(samples) if is_gray && colour.bit_depth() < 8 => unpack(&samples, width, colour.bit_depth(), palette.is_some()),
        DecodingResult::U8(samples) => samples,
        // PIL clips wide gray, and does not invert it. Of other 16-bit samples it takes the high byte.
        DecodingResult::U16(samples) if is_gray => {
            let black = if photometric == WHITE_IS_ZERO { u16::MAX } else { 0 };
            samples.iter().map(|sample| (sample ^ black).min(255) as u8).collect()
        }
        DecodingResult::U16(samples) => samples.iter().map(|sample| (sample >> 8) as u8).collect(),
        DecodingResult::I16(samples) if is_gray => samples.iter().map(|&sample| sample.clamp(0, 255) as u8).collect(),
        DecodingResult::I32(samples) if is_gray => samples.iter().map(|&sample| sample.clamp(0, 255) as u8).collect(),
        _ => return Err(unsupported(&format!("its samples have {} bits", colour.bit_depth()))),
    };
    let channels = samples.len() / (width * height).max(1);
    let pixel = |at: usize, channel: usize| {
        let at = if planar {
            channel * width * height + at
        } else {
            at * channels + channel
        };
        samples.get(at).copied().unwrap_or_default()
    };
    let convert: Box<dyn Fn(usize) -> [u8; 3]> = match (colour, &palette) {
        (ColorType::Gray(1..=8), Some(palette)) => {
            let len = palette.len() / 3;
            Box::new(move |at| {
                let index = usize::from(pixel(at, 0));
                [0, 1, 2].map(|channel| palette.get(channel * len + index).map_or(0, |value| (value >> 8) as u8))
            })
        }
        (
            ColorType::Gray(_)
            | ColorType::Multiband {
                bit_depth: 8,
                num_samples: 2,
            },
            None,
        ) => Box::new(|at| [pixel(at, 0); 3]),
        (ColorType::RGBA(8 | 16), None) if premultiplied => Box::new(|at| match pixel(at, 3) {
            0 => [0; 3],
            alpha => [0, 1, 2].map(|channel| (u32::from(pixel(at, channel)) * 255 / u32::from(alpha)).min(255) as u8),
        }),
        (ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16), None) => Box::new(|at| [0, 1, 2].map(|channel| pixel(at, channel))),
        (ColorType::CMYK(8 | 16) | ColorType::CMYKA(8 | 16), None) => {
            Box::new(|at| neva_jpeg::cmyk_to_rgb([0, 1, 2, 3].map(|channel| 255 - pixel(at, channel))))
        }
        (other, _) => return Err(unsupported(&format!("its colours are {other:?}"))),
    };
    let image = RgbImage {
        width,
        height,
        data: (0..width * height).flat_map(convert).collect(),
    };
    Ok(exif::transposed(image, orientation))
}

/// Returns width and height of the upright image.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut reader = open(bytes.into())?;
    let (width, height) = reader.dimensions().map_err(broken)?;
    let orientation = reader.find_tag_unsigned::<u16>(Tag::Orientation).map_err(broken)?;
    Ok(exif::upright(width as usize, height as usize, orientation.unwrap_or(1)))
}

/// Values of the tag `PhotometricInterpretation`.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

fn open(bytes: Cow<'_, [u8]>) -> Result<Reader<'_>, String> {
    let mut limits = Limits::unlimited(); // `check_size` is the limit of pixels.
    limits.decoding_buffer_size = 4 << 30;
    limits.ifd_value_size = bytes.len();
    limits.intermediate_buffer_size = bytes.len();
    Ok(Decoder::new(Cursor::new(bytes)).map_err(broken)?.with_limits(limits))
}

/// Returns the file with its image marked as gray instead of as one with a palette.
fn as_gray(bytes: &[u8], reader: &mut Reader<'_>) -> Result<Vec<u8>, String> {
    let little = reader.byte_order() == ByteOrder::LittleEndian;
    let number = |bytes: [u8; 2]| {
        if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        }
    };
    let gray = if little {
        BLACK_IS_ZERO.to_le_bytes()
    } else {
        BLACK_IS_ZERO.to_be_bytes()
    };
    let directory = reader.ifd_pointer().and_then(|pointer| usize::try_from(pointer.0).ok());
    let entries = directory
        .and_then(|at| at.checked_add(2))
        .filter(|_| bytes.get(2) != Some(&43) && bytes.get(3) != Some(&43));
    let entries = entries.ok_or_else(|| unsupported("it is a BigTIFF with a palette"))?;
    let mut bytes = bytes.to_vec();
    let entry = bytes.get_mut(entries..).unwrap_or_default().chunks_exact_mut(12);
    for entry in entry {
        if number([entry[0], entry[1]]) == Tag::PhotometricInterpretation.to_u16() {
            entry[8..10].copy_from_slice(&gray);
            return Ok(bytes);
        }
    }
    Err("broken TIFF file: no PhotometricInterpretation".to_owned())
}

/// Returns a byte for each sample of fewer than 8 bits, scaled to 255 unless it is an index.
fn unpack(rows: &[u8], width: usize, bits: u8, is_index: bool) -> Vec<u8> {
    let per_byte = 8 / usize::from(bits.clamp(1, 8));
    let max = u8::MAX >> (8 - bits);
    let scale = if is_index { 1 } else { 255 / max };
    let sample = |row: &[u8], x: usize| {
        let shift = 8 - bits as usize * (x % per_byte + 1);
        (row[x / per_byte] >> shift & max) * scale
    };
    rows.chunks_exact(width.div_ceil(per_byte))
        .flat_map(|row| (0..width).map(move |x| sample(row, x)))
        .collect()
}

fn broken(error: TiffError) -> String {
    match error {
        TiffError::UnsupportedError(what) => unsupported(&what.to_string()),
        TiffError::IoError(_) => "the TIFF file is truncated: copy or download it again".to_owned(),
        error => format!("broken TIFF file: {error}"),
    }
}

fn unsupported(what: &str) -> String {
    format!("this kind of TIFF file is not supported: {what}; convert it to PNG")
}
