//! Decodes images; the format is detected from the contents. As with PIL's `convert("RGB")`, alpha is dropped and not
//! blended, 16-bit gray is clipped and not scaled, and only the first frame is read.

use std::{io::Cursor, num::NonZeroU64};

use gif::MemoryLimit;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{
    RgbImage, exif, jpeg,
    limits::{MAX_PIXELS, check_size},
    png, pnm, tiff,
};

/// Decodes an image, or returns the reason why it cannot. `apply_exif` turns it upright.
pub(super) fn decode(bytes: &[u8], apply_exif: bool) -> Result<RgbImage, String> {
    let image = match Format::of(bytes)? {
        Format::Jpeg => jpeg::decode(bytes),
        Format::Png => png::decode(bytes),
        Format::Gif => gif(bytes),
        Format::WebP => raster(bytes, ImageFormat::WebP),
        Format::Bmp => raster(bytes, ImageFormat::Bmp),
        Format::Tiff => tiff::decode(bytes),
        Format::Pnm => pnm::decode(bytes),
    }?;
    Ok(if apply_exif {
        exif::transposed(image, exif::orientation(bytes))
    } else {
        image
    })
}

/// Returns width and height without decoding. The first bytes of a file suffice if its header is within them; otherwise
/// the reason is that it is truncated.
pub(super) fn size(bytes: &[u8], apply_exif: bool) -> Result<(usize, usize), String> {
    let (width, height) = match Format::of(bytes)? {
        Format::Jpeg => jpeg::size(bytes),
        Format::Png => png::size(bytes),
        Format::Gif => gif_size(bytes),
        Format::WebP => raster_size(bytes, ImageFormat::WebP),
        Format::Bmp => raster_size(bytes, ImageFormat::Bmp),
        Format::Tiff => tiff::size(bytes),
        Format::Pnm => pnm::size(bytes),
    }?;
    check_size(width, height)?;
    Ok(if apply_exif {
        exif::upright(width, height, exif::orientation(bytes))
    } else {
        (width, height)
    })
}

enum Format {
    Jpeg,
    Png,
    Gif,
    WebP,
    Bmp,
    Tiff,
    Pnm,
}

impl Format {
    fn of(bytes: &[u8]) -> Result<Self, String> {
        Ok(match bytes {
            [] => return Err("the file is empty".to_owned()),
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            _ if bytes.starts_with(&png::SIGNATURE) => Self::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'B', b'M', ..] => Self::Bmp,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Self::Tiff,
            [b'P', b'1'..=b'6', ..] => Self::Pnm,
            _ if bytes.starts_with(b"version https://git-lfs") => {
                return Err("a pointer of Git LFS, not the image: run `git lfs pull` in its repository".to_owned());
            }
            _ => return Err("not an image: the contents are not JPEG, PNG, GIF, WebP, BMP, TIFF or PPM".to_owned()),
        })
    }
}

fn raster(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    let decoder = decoder(bytes, format)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| broken(format, &error))?;
    Ok(RgbImage {
        width: width as usize,
        height: height as usize,
        data: image.into_rgb8().into_raw(),
    })
}

fn raster_size(bytes: &[u8], format: ImageFormat) -> Result<(usize, usize), String> {
    let (width, height) = decoder(bytes, format)?.dimensions();
    Ok((width as usize, height as usize))
}

fn decoder(bytes: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, String> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.no_limits(); // `check_size` is the limit, and it is PIL's.
    reader.into_decoder().map_err(|error| broken(format, &error))
}

fn broken(format: ImageFormat, error: &image::ImageError) -> String {
    format!("broken {format:?} file: {error}")
}

fn gif_decoder(bytes: &[u8]) -> Result<gif::Decoder<&[u8]>, String> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    // A frame may be larger than the logical screen, whose size is checked below.
    options.set_memory_limit(NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let decoder = options.read_info(bytes).map_err(|error| format!("broken GIF file: {error}"))?;
    check_size(usize::from(decoder.width()), usize::from(decoder.height()))?;
    Ok(decoder)
}

fn gif_size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut decoder = gif_decoder(bytes)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(|error| format!("broken GIF file: {error}"))?;
    let frame = frame.ok_or("the GIF has no frame")?;
    let [left, top, width, height] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    Ok((screen.0.max(left + width), screen.1.max(top + height)))
}

fn gif(bytes: &[u8]) -> Result<RgbImage, String> {
    let broken = |error: gif::DecodingError| format!("broken GIF file: {error}");
    let mut decoder = gif_decoder(bytes)?;
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
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
