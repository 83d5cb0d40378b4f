//! JPEG decoding with libjpeg's C code, bit for bit as PIL decodes.
//!
//! The C code is MozJPEG's copy of libjpeg-turbo, with the settings of PIL: the accurate integer inverse DCT and smooth
//! ("fancy") chroma upsampling. Other decoders round differently: zune-jpeg by up to 16 of 255.
//!
//! As in PIL, colour profiles and EXIF data are ignored, warnings of libjpeg are ignored, data after the image is ignored,
//! and a truncated file is an error.

mod cmyk;
mod decompress;
mod error_manager;

pub use cmyk::cmyk_to_rgb;
pub use decompress::has_simd;
pub use error_manager::JpegError;

use decompress::Decompress;

/// Kind of the colours that a file stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// One component.
    Gray,
    /// Three components: YCbCr or RGB.
    Rgb,
    /// Four components: CMYK or YCCK.
    Cmyk,
}

/// Content of the header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Kind of the colours.
    pub colours: Colours,
}

/// Decoder of one file, whose header is read.
pub struct Decoder<'a> {
    decompress: Decompress<'a>,
    header: Header,
}

impl<'a> Decoder<'a> {
    /// Reads the header of a file in `bytes`, up to the first scan. Decodes and allocates no pixels.
    ///
    /// # Errors
    /// Returns [`JpegError::Truncated`] if the bytes end within the header, and otherwise the reason why this is no JPEG.
    pub fn new(bytes: &'a [u8]) -> Result<Self, JpegError> {
        let mut decompress = Decompress::new(bytes)?;
        let (width, height, components) = decompress.read_header()?;
        let colours = match components {
            1 => Colours::Gray,
            3 => Colours::Rgb,
            4 => Colours::Cmyk,
            components => return Err(JpegError::Components { components }),
        };
        let header = Header { width, height, colours };
        Ok(Self { decompress, header })
    }

    /// Returns the header.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// Decodes the image to red, green and blue bytes. Shape `[height, width, 3]`. CMYK is converted as PIL converts it.
    ///
    /// `buffer`, whose contents are arbitrary, gets the pixels; an empty one is allocated. A file needs `3 * width * height`
    /// bytes, and a progressive one twice that in addition: check the header first.
    ///
    /// # Errors
    /// Returns [`JpegError::Truncated`] if the bytes end within the image, and otherwise libjpeg's error.
    pub fn decode(mut self, buffer: Vec<u8>) -> Result<Vec<u8>, JpegError> {
        let Header { width, height, colours } = self.header;
        let channels = if colours == Colours::Cmyk { 4 } else { 3 };
        self.decompress.start(colours == Colours::Cmyk, channels)?;
        let mut rgb = buffer;
        rgb.resize(width * height * 3, 0);
        let rows = rgb.chunks_exact_mut(width * 3);
        if colours == Colours::Cmyk {
            let mut cmyk = vec![0; width * channels];
            for row in rows {
                self.decompress.read_row(&mut cmyk)?;
                for (&pixel, to) in cmyk.as_chunks().0.iter().zip(row.as_chunks_mut().0) {
                    *to = cmyk_to_rgb(pixel);
                }
            }
        } else {
            for row in rows {
                self.decompress.read_row(row)?;
            }
        }
        Ok(rgb)
    }
}
