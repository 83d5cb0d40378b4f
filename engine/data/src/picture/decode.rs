//! Decoding by content. Alpha is dropped, not blended; 16-bit gray is clipped, not scaled; only a first frame is read.
//! Each of the three is what PIL's `convert("RGB")` does.

use std::{io::Cursor, num::NonZeroU64};

use gif::MemoryLimit;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{Rgb, jpeg};

/// Above this many pixels PIL raises `DecompressionBombError`.
const MAX_PIXELS: usize = 178_956_970;

/// Longest edge, and largest ratio of the edges. PIL has no such limits, but a strip that is expanded to a square, or
/// whose shorter edge is scaled up, fills the memory no less than a bomb does.
const MAX_EDGE: usize = 30_000;
const MAX_ASPECT: usize = 200;

/// Decodes, or says why not.
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, String> {
    match bytes {
        [] => Err("the file is empty".to_owned()),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif(bytes),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => raster(bytes, ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => raster(bytes, ImageFormat::WebP),
        [b'B', b'M', ..] => raster(bytes, ImageFormat::Bmp),
        _ => Err("not a picture: its contents are none of JPEG, PNG, GIF, WebP, BMP".to_owned()),
    }
}

/// Refuses what would exhaust the memory, before anything is allocated.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), String> {
    let (long, short) = (width.max(height), width.min(height));
    if short == 0 {
        Err("the picture has no pixels".to_owned())
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

fn raster(bytes: &[u8], format: ImageFormat) -> Result<Rgb, String> {
    let broken = |error: image::ImageError| format!("broken {format:?} file: {error}");
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits(); // `check_size` is the limit, and it is PIL's.
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    let gray16 = format == ImageFormat::Png && bytes.get(24..26) == Some(&[16, 0]); // depth, colour type
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;

    // PIL reads 16-bit gray as integers and clips them; other 16-bit samples it reads by their high byte.
    let byte = |sample: u16| if gray16 { sample.min(255) as u8 } else { (sample >> 8) as u8 };
    let data = match picture {
        DynamicImage::ImageLuma16(gray) => gray.pixels().flat_map(|p| [byte(p.0[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(gray) => gray.pixels().flat_map(|p| [byte(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.into_raw().into_iter().map(byte).collect(),
        DynamicImage::ImageRgba16(rgb) => rgb.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(byte)).collect(),
        picture => picture.into_rgb8().into_raw(),
    };
    Ok(Rgb {
        width: width as usize,
        height: height as usize,
        data,
    })
}

fn gif(bytes: &[u8]) -> Result<Rgb, String> {
    let broken = |error: gif::DecodingError| format!("broken GIF file: {error}");
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    // A frame may be larger than the screen, which is checked below.
    options.set_memory_limit(NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(bytes).map_err(broken)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    check_size(screen.0, screen.1)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(broken)?.ok_or("the GIF has no frame")?;

    // A transparent pixel keeps its palette colour, and so does the screen around a small frame.
    let palette = frame.palette.as_deref().or(global.as_deref());
    let colour = |index: u8| match palette {
        Some(palette) => {
            let at = usize::from(index) * 3;
            palette.get(at..at + 3).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
        }
        None => [index; 3],
    };
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let mut picture = Rgb::filled(
        screen.0.max(left + width),
        screen.1.max(top + height),
        colour(frame.transparent.unwrap_or(0)),
    );
    let frame = Rgb {
        width,
        height,
        data: frame.buffer.iter().flat_map(|&index| colour(index)).collect(),
    };
    picture.paste(&frame, left.cast_signed(), top.cast_signed());
    Ok(picture)
}
