//! Decodes images; the format is detected from the contents. As with PIL's `convert("RGB")`, alpha is dropped and not
//! blended, 16-bit gray is clipped and not scaled, and only the first frame is read.

use std::{io::Cursor, num::NonZeroU64};

use gif::MemoryLimit;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{
    RgbImage, jpeg,
    limits::{MAX_PIXELS, check_size},
};

/// Decodes an image, or returns the reason why it cannot.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    match bytes {
        [] => Err("the file is empty".to_owned()),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif(bytes),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => raster(bytes, ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => raster(bytes, ImageFormat::WebP),
        [b'B', b'M', ..] => raster(bytes, ImageFormat::Bmp),
        _ => Err("not an image: the contents are not JPEG, PNG, GIF, WebP or BMP".to_owned()),
    }
}

fn raster(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    let broken = |error: image::ImageError| format!("broken {format:?} file: {error}");
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits(); // `check_size` is the limit, and it is PIL's.
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    let gray16 = format == ImageFormat::Png && bytes.get(24..26) == Some(&[16, 0]); // depth, colour type
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;

    // PIL reads 16-bit gray as integers and clips them. For other 16-bit samples it takes the high byte.
    let byte = |sample: u16| if gray16 { sample.min(255) as u8 } else { (sample >> 8) as u8 };
    let data = match image {
        DynamicImage::ImageLuma16(gray) => gray.pixels().flat_map(|p| [byte(p.0[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(gray) => gray.pixels().flat_map(|p| [byte(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.into_raw().into_iter().map(byte).collect(),
        DynamicImage::ImageRgba16(rgb) => rgb.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(byte)).collect(),
        image => image.into_rgb8().into_raw(),
    };
    Ok(RgbImage {
        width: width as usize,
        height: height as usize,
        data,
    })
}

fn gif(bytes: &[u8]) -> Result<RgbImage, String> {
    let broken = |error: gif::DecodingError| format!("broken GIF file: {error}");
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    // A frame may be larger than the logical screen, whose size is checked below.
    options.set_memory_limit(NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(bytes).map_err(broken)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    check_size(screen.0, screen.1)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(broken)?.ok_or("the GIF has no frame")?;

    // A transparent pixel gets its palette colour, and so does the screen around a small frame.
    let palette = frame.palette.as_deref().or(global.as_deref());
    let colour = |index: u8| match palette {
        Some(palette) => {
            let at = usize::from(index) * 3;
            palette.get(at..at + 3).map_or([0; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
        }
        None => [index; 3],
    };
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let mut image = RgbImage::filled(
        screen.0.max(left + width),
        screen.1.max(top + height),
        colour(frame.transparent.unwrap_or(0)),
    );
    let frame = RgbImage {
        width,
        height,
        data: frame.buffer.iter().flat_map(|&index| colour(index)).collect(),
    };
    image.paste(&frame, left.cast_signed(), top.cast_signed());
    Ok(image)
}
