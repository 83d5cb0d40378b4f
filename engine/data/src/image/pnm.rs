//! PBM, PGM and PPM (P1 to P6) as PIL reads them (Pillow's `PpmImagePlugin.py`).

use super::{RgbImage, limits::check_size};

/// Decodes a file.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let header = Header::read(bytes)?;
    let Header { width, height, .. } = header;
    check_size(width, height)?;
    let count = width * height * header.kind.channels();
    let data = &bytes[header.data..];
    let samples = if header.kind.is_plain() {
        header.plain(data, count)?
    } else {
        header.binary(data, count)?
    };
    if samples.len() < count {
        return Err(format!(
            "the {} file is truncated: it has {} of {count} samples; copy or download it again",
            header.kind.name(),
            samples.len()
        ));
    }
    let data = if header.kind.channels() == 1 {
        samples.into_iter().flat_map(|sample| [sample; 3]).collect()
    } else {
        samples
    };
    Ok(RgbImage { width, height, data })
}

/// Returns width and height.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let header = Header::read(bytes)?;
    Ok((header.width, header.height))
}

/// The digit behind the P.
#[derive(Clone, Copy)]
struct Kind(u8);

impl Kind {
    fn is_plain(self) -> bool {
        self.0 <= b'3'
    }

    fn is_bitmap(self) -> bool {
        matches!(self.0, b'1' | b'4')
    }

    fn channels(self) -> usize {
        if matches!(self.0, b'3' | b'6') { 3 } else { 1 }
    }

    fn name(self) -> &'static str {
        match self.0 {
            b'1' | b'4' => "PBM",
            b'2' | b'5' => "PGM",
            _ => "PPM",
        }
    }
}

struct Header {
    kind: Kind,
    width: usize,
    height: usize,
    /// Value of white; 1 in a bitmap.
    max: u32,
    /// Position of the samples.
    data: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let [b'P', digit @ b'1'..=b'6', space, ..] = *bytes else {
            return Err("broken PPM file: it does not start with P1 to P6".to_owned());
        };
        let kind = Kind(digit);
        if !is_space(space) {
            return Err(format!("broken {} file: no blank behind its first two bytes", kind.name()));
        }
        let mut at = 3;
        let mut number = |what: &str| {
            token(bytes, &mut at)
                .and_then(|token| token.parse().ok())
                .ok_or_else(|| format!("broken {} file: its header has no {what}", kind.name()))
        };
        let (width, height): (u32, u32) = (number("width")?, number("height")?);
        let max = if kind.is_bitmap() { 1 } else { number("maximum")? };
        if !(1..65_536).contains(&max) {
            return Err(format!("broken {} file: its maximum is {max}, not 1 to 65535", kind.name()));
        }
        Ok(Self {
            kind,
            width: width as usize,
            height: height as usize,
            max,
            data: at.min(bytes.len()),
        })
    }

    /// Reads up to `count` samples of a binary file.
    fn binary(&self, data: &[u8], count: usize) -> Result<Vec<u8>, String> {
        Ok(match self.max {
            _ if self.kind.is_bitmap() => {
                let rows = data.chunks_exact(self.width.div_ceil(8)).take(self.height);
                let bit = |row: &[u8], x: usize| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 0 } else { 255 };
                rows.flat_map(|row| (0..self.width).map(move |x| bit(row, x))).collect()
            }
            255 => data[..count.min(data.len())].to_vec(),
            ..255 => data.iter().take(count).map(|&sample| self.byte(u32::from(sample))).collect(),
            _ => data
                .as_chunks()
                .0
                .iter()
                .take(count)
                .map(|&sample| self.byte(u32::from(u16::from_be_bytes(sample))))
                .collect(),
        })
    }

    /// Reads up to `count` samples of a text file.
    fn plain(&self, data: &[u8], count: usize) -> Result<Vec<u8>, String> {
        // A comment separates nothing, as in PIL.
        let mut text = Vec::with_capacity(data.len());
        let mut in_comment = false;
        for &c in data {
            let was_comment = in_comment;
            in_comment = (in_comment || c == b'#') && !matches!(c, b'\n' | b'\r');
            if !in_comment && !was_comment {
                text.push(c);
            }
        }
        let broken = |token: &[u8]| {
            let token = String::from_utf8_lossy(&token[..token.len().min(20)]).into_owned();
            format!("broken {} file: `{token}` is no sample of 0 to {}", self.kind.name(), self.max)
        };
        if self.kind.is_bitmap() {
            let digits = text.iter().filter(|&&c| !is_space(c)).take(count);
            return digits
                .map(|digit| match digit {
                    b'0' => Ok(255),
                    b'1' => Ok(0),
                    other => Err(broken(&[*other])),
                })
                .collect();
        }
        let tokens = text.split(|&c| is_space(c)).filter(|token| !token.is_empty()).take(count);
        tokens
            .map(|token| {
                let number: Option<u32> = std::str::from_utf8(token).ok().and_then(|token| token.parse().ok());
                number
                    .filter(|&number| number <= self.max)
                    .map(|number| self.byte(number))
                    .ok_or_else(|| broken(token))
            })
            .collect()
    }

    /// Scales a sample to a byte. PIL scales gray of more than 8 bits to 16 bits, and later clips it to 8.
    fn byte(&self, sample: u32) -> u8 {
        let wide_gray = self.max > 255 && self.kind.channels() == 1;
        let white = if wide_gray { 65_535.0 } else { 255.0 };
        let scaled = (f64::from(sample) / f64::from(self.max) * white).round_ties_even();
        scaled.min(255.0) as u8
    }
}

/// Returns the next word of the header, without comments, and moves `at` behind the blank that ends it.
fn token(bytes: &[u8], at: &mut usize) -> Option<String> {
    let mut token = String::new();
    while token.len() <= 10 {
        let Some(&c) = bytes.get(*at) else { break };
        *at += 1;
        match c {
            b'#' => {
                while bytes.get(*at).is_some_and(|c| !matches!(c, b'\r' | b'\n')) {
                    *at += 1;
                }
                *at += 1;
            }
            c if !is_space(c) => token.push(char::from(c)),
            _ if token.is_empty() => {}
            _ => break,
        }
    }
    (!token.is_empty()).then_some(token)
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
