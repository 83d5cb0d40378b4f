//! Size and format of an image, read from the first and the last bytes of its file.
//!
//! A file that looks odd is not judged here: the caller decodes it, so that the decoder of the training decides. So an
//! unknown kind of file costs time and is never reported wrongly. Damage within the compressed pixels is not seen.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Result of reading a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glance {
    /// The file has the beginning and the end of an image that every decoder reads.
    Complete(Header),
    /// Only a decoder can decide.
    Doubtful(Doubt),
}

/// Format and size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// Reason for decoding an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The file has no bytes.
    Empty,
    /// The contents are none of the formats of this module.
    Format,
    /// The header is unusual or broken.
    Header,
    /// The end is missing, or there is something after it.
    End,
    /// The image is large or narrow.
    Size,
}

/// Sizes below these are accepted by every decoder: pixels, length of an edge, ratio of the edges.
const PIXELS: u64 = 60_000_000;
const EDGE: u32 = 16_000;
const ASPECT: u32 = 50;

/// Number of bytes at the end of a JPEG file in which its end marker is looked for.
const TAIL: u64 = 1024;

/// Reads the header of an image of `len` bytes.
///
/// # Errors
/// The file cannot be read.
pub(super) fn glance<R: Read + Seek>(file: R, len: u64) -> io::Result<Glance> {
    let mut file = BufReader::with_capacity(4096, file);
    match read(&mut file, len) {
        Ok(Err(doubt)) => Ok(Glance::Doubtful(doubt)),
        Ok(Ok(header)) if is_usual(header) => Ok(Glance::Complete(header)),
        Ok(Ok(_)) => Ok(Glance::Doubtful(Doubt::Size)),
        // The header is longer than the file.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Glance::Doubtful(Doubt::End)),
        Err(error) => Err(error),
    }
}

fn is_usual(Header { width, height, .. }: Header) -> bool {
    let (long, short) = (width.max(height), width.min(height));
    short > 0 && long <= EDGE && long <= short.saturating_mul(ASPECT) && u64::from(long) * u64::from(short) <= PIXELS
}

type Read1<T> = io::Result<Result<T, Doubt>>;

fn read<R: Read + Seek>(file: &mut BufReader<R>, len: u64) -> Read1<Header> {
    if len == 0 {
        return Ok(Err(Doubt::Empty));
    }
    let mut start = [0; 4];
    if len < start.len() as u64 {
        return Ok(Err(Doubt::Format));
    }
    file.read_exact(&mut start)?;
    match start {
        [0xff, 0xd8, 0xff, marker] => jpeg(file, len, marker),
        [0x89, b'P', b'N', b'G'] => png(file, len),
        [b'G', b'I', b'F', b'8'] => gif(file, len),
        [b'R', b'I', b'F', b'F'] => webp(file, len),
        [b'B', b'M', ..] => bmp(file, len),
        _ => Ok(Err(Doubt::Format)),
    }
}

/// Reads the segments of a JPEG file up to its first scan. `marker` is that of the first segment.
fn jpeg<R: Read + Seek>(file: &mut BufReader<R>, len: u64, mut marker: u8) -> Read1<Header> {
    let mut size = None;
    loop {
        match marker {
            // Baseline and progressive Huffman coding.
            0xc0..=0xc2 => {
                let mut frame = [0; 8];
                file.read_exact(&mut frame)?;
                let [high, low, precision, h1, h2, w1, w2, components] = frame;
                let rest = i64::from(u16::from_be_bytes([high, low])) - 8;
                if precision != 8 || !matches!(components, 1 | 3 | 4) || rest != i64::from(components) * 3 || size.is_some() {
                    return Ok(Err(Doubt::Header));
                }
                size = Some((u16::from_be_bytes([w1, w2]), u16::from_be_bytes([h1, h2])));
                file.seek_relative(rest)?;
            }
            // The first scan.
            0xda => break,
            // Tables, application data, comments.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => {
                let length = i64::from(u16::from_be_bytes(bytes(file)?));
                if length < 2 {
                    return Ok(Err(Doubt::Header));
                }
                file.seek_relative(length - 2)?;
            }
            _ => return Ok(Err(Doubt::Header)),
        }
        marker = match bytes(file)? {
            [0xff, marker] => marker,
            _ => return Ok(Err(Doubt::Header)),
        };
    }
    let Some((width, height)) = size else {
        return Ok(Err(Doubt::Header));
    };
    // The bytes of the end marker occur nowhere in compressed data.
    let tail = tail(file, len.min(TAIL))?;
    if !tail.windows(2).any(|pair| pair == [0xff, 0xd9]) {
        return Ok(Err(Doubt::End));
    }
    Ok(Ok(Header {
        format: "jpeg",
        width: width.into(),
        height: height.into(),
    }))
}

fn png<R: Read + Seek>(file: &mut BufReader<R>, len: u64) -> Read1<Header> {
    const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";
    let header: [u8; 29] = bytes(file)?;
    let [
        13,
        10,
        26,
        10,
        0,
        0,
        0,
        13,
        b'I',
        b'H',
        b'D',
        b'R',
        w1,
        w2,
        w3,
        w4,
        h1,
        h2,
        h3,
        h4,
        depth,
        colour,
        0,
        0,
        0 | 1,
        ..,
    ] = header
    else {
        return Ok(Err(Doubt::Header));
    };
    if !matches!((colour, depth), (0, 1 | 2 | 4 | 8 | 16) | (3, 1 | 2 | 4 | 8) | (2 | 4 | 6, 8 | 16)) {
        return Ok(Err(Doubt::Header));
    }
    if tail(file, len.min(END.len() as u64))? != END {
        return Ok(Err(Doubt::End));
    }
    Ok(Ok(Header {
        format: "png",
        width: u32::from_be_bytes([w1, w2, w3, w4]),
        height: u32::from_be_bytes([h1, h2, h3, h4]),
    }))
}

fn gif<R: Read + Seek>(file: &mut BufReader<R>, len: u64) -> Read1<Header> {
    let [b'7' | b'9', b'a', w1, w2, h1, h2] = bytes(file)? else {
        return Ok(Err(Doubt::Header));
    };
    if tail(file, 1)? != [0x3b] || len < 26 {
        return Ok(Err(Doubt::End));
    }
    Ok(Ok(Header {
        format: "gif",
        width: u16::from_le_bytes([w1, w2]).into(),
        height: u16::from_le_bytes([h1, h2]).into(),
    }))
}

fn webp<R: Read + Seek>(file: &mut BufReader<R>, len: u64) -> Read1<Header> {
    let header: [u8; 26] = bytes(file)?;
    let [a, b, c, d, b'W', b'E', b'B', b'P', b'V', b'P', b'8', kind, _, _, _, _, body @ ..] = header else {
        return Ok(Err(Doubt::Header));
    };
    let (width, height) = match (kind, body) {
        (b' ', [_, _, _, 0x9d, 0x01, 0x2a, w1, w2, h1, h2]) => (
            u32::from(u16::from_le_bytes([w1, w2]) & 0x3fff),
            u32::from(u16::from_le_bytes([h1, h2]) & 0x3fff),
        ),
        (b'L', [0x2f, b1, b2, b3, b4, ..]) => {
            let bits = u32::from_le_bytes([b1, b2, b3, b4]);
            ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
        }
        (b'X', [_, _, _, _, w1, w2, w3, h1, h2, h3]) => (u32::from_le_bytes([w1, w2, w3, 0]) + 1, u32::from_le_bytes([h1, h2, h3, 0]) + 1),
        _ => return Ok(Err(Doubt::Header)),
    };
    let declared = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    if declared != len && declared + 1 != len {
        return Ok(Err(Doubt::End));
    }
    Ok(Ok(Header {
        format: "webp",
        width,
        height,
    }))
}

/// Reads an uncompressed bitmap, whose length follows from its size.
fn bmp<R: Read + Seek>(file: &mut BufReader<R>, len: u64) -> Read1<Header> {
    file.rewind()?;
    let header: [u8; 34] = bytes(file)?;
    let word = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let half = |at: usize| header.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
    let (Some(offset), Some(40..), Some(width), Some(height), Some(1), Some(depth), Some(0)) =
        (word(10), word(14), word(18), word(22), half(26), half(28), word(30))
    else {
        return Ok(Err(Doubt::Header));
    };
    // A negative height means that rows are stored from the top.
    let (width, height) = (width, height.cast_signed().unsigned_abs());
    if !matches!(depth, 1 | 4 | 8 | 24 | 32) || width.cast_signed() < 0 {
        return Ok(Err(Doubt::Header));
    }
    let row = (u64::from(width) * u64::from(depth)).div_ceil(32) * 4;
    if u64::from(offset) + row * u64::from(height) > len {
        return Ok(Err(Doubt::End));
    }
    Ok(Ok(Header {
        format: "bmp",
        width,
        height,
    }))
}

fn bytes<R: Read, const N: usize>(file: &mut BufReader<R>) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns the last `count` bytes.
fn tail<R: Read + Seek>(file: &mut BufReader<R>, count: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::End(-count.cast_signed()))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}
