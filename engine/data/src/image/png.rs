//! PNG as PIL reads it.
//!
//! PIL checks the chunks in front of the image data, checksums of ancillary ones included. It ignores the checksums of
//! the image data's chunks and of all that follows, and needs no IEND. The `png` crate decides otherwise. So the chunks
//! are walked here by PIL's rules, and the crate decodes a stream of those that affect the colours. Transparency does
//! not: `convert("RGB")` drops it.
//!
//! Unlike PIL, a file whose data ends early at a row's end is refused; PIL takes the missing rows as black.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodeOptions, Decoder, Limits, Transformations};

use super::{RgbImage, limits::check_size};

/// Decodes a file.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let chunks = Chunks::read(bytes)?;
    let (width, height) = chunks.size();
    check_size(width, height)?;
    let stream = chunks.stream();
    chunks.check_trailing(bytes)?;

    let broken = |error: png::DecodingError| match error {
        png::DecodingError::IoError(_) => truncated(bytes),
        // The compressed data end early.
        error if error.to_string().contains("InsufficientInput") => truncated(bytes),
        error => format!("broken PNG file: {error}"),
    };
    let mut options = DecodeOptions::default();
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(stream), options);
    decoder.set_limits(Limits { bytes: usize::MAX }); // `check_size` is the limit.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(broken)?;
    let mut samples = vec![0; reader.output_buffer_size().ok_or("broken PNG file: too large")?];
    let info = reader.next_frame(&mut samples).map_err(broken)?;
    samples.truncate(info.buffer_size());

    // PIL reads 16-bit gray as integers and clips them. For other 16-bit samples it takes the high byte.
    let gray16 = chunks.header[8] == 16 && chunks.header[9] == 0;
    let bytes_per_sample = if info.bit_depth == BitDepth::Sixteen { 2 } else { 1 };
    let data = match info.color_type {
        ColorType::Grayscale if gray16 => samples
            .as_chunks()
            .0
            .iter()
            .flat_map(|&sample| [u16::from_be_bytes(sample).min(255) as u8; 3])
            .collect(),
        ColorType::Grayscale | ColorType::GrayscaleAlpha => samples
            .chunks_exact(bytes_per_sample * info.color_type.samples())
            .flat_map(|pixel| [pixel[0]; 3])
            .collect(),
        ColorType::Rgb if bytes_per_sample == 1 => samples,
        ColorType::Rgb | ColorType::Rgba => samples
            .chunks_exact(bytes_per_sample * info.color_type.samples())
            .flat_map(|pixel| [pixel[0], pixel[bytes_per_sample], pixel[2 * bytes_per_sample]])
            .collect(),
        ColorType::Indexed => return Err("broken PNG file: the palette is not expanded".to_owned()),
    };
    if data.len() != width * height * 3 {
        return Err(format!("broken PNG file: {} bytes for {width} x {height} pixels", data.len()));
    }
    Ok(RgbImage { width, height, data })
}

/// Returns width and height.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut at = SIGNATURE.len();
    loop {
        let chunk = Chunk::read(bytes, &mut at)?;
        if chunk.name == *b"IHDR" {
            return Ok(dimensions(header(&chunk)?));
        }
    }
}

/// Returns the EXIF data, if a chunk in front of the image data has it.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = SIGNATURE.len();
    loop {
        let chunk = Chunk::read(bytes, &mut at).ok()?;
        match &chunk.name {
            b"eXIf" => return Some(chunk.data),
            b"IDAT" => return None,
            _ => {}
        }
    }
}

/// First bytes of a file.
pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// A chunk that is complete but for its checksum.
struct Chunk<'a> {
    name: [u8; 4],
    data: &'a [u8],
    checksum: Option<[u8; 4]>,
}

impl<'a> Chunk<'a> {
    /// Reads the chunk at `at` and moves `at` behind it.
    fn read(bytes: &'a [u8], at: &mut usize) -> Result<Self, String> {
        let rest = bytes.get(*at..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Err(truncated(bytes));
        };
        let Some((&name, rest)) = rest.split_first_chunk::<4>() else {
            return Err(truncated(bytes));
        };
        let is_letter = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
        if !name.iter().all(is_letter) {
            return Err(format!("broken PNG file: no chunk at byte {at}"));
        }
        let Some((data, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            return Err(truncated(bytes));
        };
        *at += 12 + data.len();
        Ok(Self {
            name,
            data,
            checksum: rest.first_chunk().copied(),
        })
    }

    /// Checks the checksum, as PIL does in front of the image data.
    fn check(&self) -> Result<(), String> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.name);
        crc.update(self.data);
        if self.checksum == Some(crc.finalize().to_be_bytes()) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(&self.name).into_owned();
        Err(format!(
            "broken PNG file: the checksum of its chunk {name} is wrong; PIL refuses it, too: save the image again"
        ))
    }
}

/// The chunks that affect the colours.
struct Chunks<'a> {
    header: [u8; 13],
    palette: Option<&'a [u8]>,
    image: Vec<&'a [u8]>,
    /// Position behind the image data.
    end: usize,
}

impl<'a> Chunks<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let (mut found, mut palette) = (None, None);
        let mut at = SIGNATURE.len();
        let mut chunk = Chunk::read_or_cut(bytes, &mut at)?;
        while chunk.name != *b"IDAT" {
            chunk.check()?;
            match &chunk.name {
                b"IHDR" => found = Some(header(&chunk)?),
                b"PLTE" => palette = Some(chunk.data),
                b"IEND" => return Err("the PNG file has no image data".to_owned()),
                _ => {}
            }
            chunk = Chunk::read_or_cut(bytes, &mut at)?;
        }
        let header = found.ok_or("broken PNG file: no IHDR in front of the image data")?;
        let mut image = vec![chunk.data];
        // The chunks of the image data follow each other.
        let mut end = at;
        while let Ok(chunk) = Chunk::read_or_cut(bytes, &mut at) {
            if chunk.name != *b"IDAT" {
                break;
            }
            image.push(chunk.data);
            end = at;
        }
        Ok(Self {
            header,
            palette,
            image,
            end,
        })
    }

    fn size(&self) -> (usize, usize) {
        dimensions(self.header)
    }

    /// Rejects a chunk behind the image data that is cut, as PIL does. What is no chunk is ignored.
    fn check_trailing(&self, bytes: &[u8]) -> Result<(), String> {
        let mut at = self.end;
        while bytes.len().saturating_sub(at) >= 8 {
            match Chunk::read(bytes, &mut at) {
                Ok(chunk) if chunk.name == *b"IEND" => return Ok(()),
                Ok(_) => {}
                Err(error) if error.starts_with("the PNG file is truncated") => return Err(error),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Returns a file of these chunks, with checksums of 0.
    fn stream(&self) -> Vec<u8> {
        let image: usize = self.image.iter().map(|data| data.len()).sum();
        let mut stream = Vec::with_capacity(image + 1024);
        stream.extend(SIGNATURE);
        let mut chunk = |name: &[u8; 4], parts: &[&[u8]]| {
            let len: usize = parts.iter().map(|part| part.len()).sum();
            stream.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
            stream.extend(name);
            parts.iter().for_each(|part| stream.extend_from_slice(part));
            stream.extend([0; 4]);
        };
        let mut header = self.header;
        header[10] = 0; // the compression method, which PIL does not read
        chunk(b"IHDR", &[&header]);
        if header[9] == 3 {
            // Colours that the palette lacks are black.
            let colours = self.palette.unwrap_or_default();
            let colours = &colours[..colours.len().min(768) / 3 * 3];
            chunk(b"PLTE", &[colours, &[0; 768][colours.len()..]]);
        }
        chunk(b"IDAT", &self.image);
        chunk(b"IEND", &[]);
        stream
    }
}

impl<'a> Chunk<'a> {
    /// Reads a chunk like [`Self::read`]. The data of an image may be cut; the decoder notices whether bytes are missing.
    fn read_or_cut(bytes: &'a [u8], at: &mut usize) -> Result<Self, String> {
        match bytes.get(*at + 4..*at + 8) {
            Some(b"IDAT") => {
                let rest = &bytes[*at + 8..];
                let length = bytes.get(*at..*at + 4).and_then(|length| length.first_chunk()).copied();
                let length = u32::from_be_bytes(length.unwrap_or_default()) as usize;
                let data = &rest[..length.min(rest.len())];
                *at += 12 + data.len();
                Ok(Self {
                    name: *b"IDAT",
                    data,
                    checksum: None,
                })
            }
            _ => Self::read(bytes, at),
        }
    }
}

fn header(chunk: &Chunk<'_>) -> Result<[u8; 13], String> {
    match chunk.data.first_chunk() {
        Some(&header) if header[11] == 0 => Ok(header),
        Some(_) => Err("broken PNG file: an unknown filter method".to_owned()),
        None => Err("broken PNG file: IHDR is too short".to_owned()),
    }
}

fn dimensions(header: [u8; 13]) -> (usize, usize) {
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    (number(0), number(4))
}

fn truncated(bytes: &[u8]) -> String {
    format!(
        "the PNG file is truncated: it ends after {} bytes; copy or download it again",
        bytes.len()
    )
}
