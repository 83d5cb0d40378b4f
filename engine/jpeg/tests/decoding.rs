//! Errors and limits of the decoder. That its pixels are PIL's is tested in neva-data, whose tests have PIL's results.

use neva_jpeg::{Colours, Decoder, Header, JpegError};

const BASELINE: &[u8] = include_bytes!("../../data/tests/images/jpeg420.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("../../data/tests/images/progressive.jpg");
const CMYK: &[u8] = include_bytes!("../../data/tests/images/cmyk.jpg");
const GRAY: &[u8] = include_bytes!("../../data/tests/images/gray.jpg");

fn decode(bytes: &[u8]) -> Result<Vec<u8>, JpegError> {
    Decoder::new(bytes)?.decode(Vec::new())
}

#[test]
fn the_header_is_read_without_the_image() {
    for (bytes, colours) in [(BASELINE, Colours::Rgb), (CMYK, Colours::Cmyk), (GRAY, Colours::Gray)] {
        let Header { width, height, .. } = Decoder::new(bytes).unwrap().header();
        let scan = bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
        let components = usize::from(bytes[scan + 4]);
        let header = Decoder::new(&bytes[..scan + 8 + 2 * components]).unwrap().header();
        assert_eq!(header, Header { width, height, colours });
        assert_eq!(decode(bytes).unwrap().len(), 3 * width * height);
    }
}

/// Wherever a file is cut, the end is noticed: no missing pixel is filled in.
#[test]
fn a_truncated_file_is_an_error() {
    for bytes in [BASELINE, PROGRESSIVE, CMYK, GRAY] {
        let end = bytes.windows(2).rposition(|marker| marker == [0xff, 0xd9]).unwrap();
        for len in 3..end {
            assert_eq!(decode(&bytes[..len]), Err(JpegError::Truncated), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn errors_name_the_reason() {
    // A marker of 12-bit samples, and one of two components.
    let frame = |precision: u8, components: u8| {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xc0, 0, 8 + 3 * components, precision, 0, 8, 0, 8, components];
        (1..=components).for_each(|id| bytes.extend([id, 0x11, 0]));
        bytes.extend([0xff, 0xda, 0, 6 + 2 * components, components]);
        (1..=components).for_each(|id| bytes.extend([id, 0]));
        bytes.extend([0, 63, 0]);
        bytes
    };
    for (bytes, expected) in [
        (Vec::new(), "Empty input file"),
        (b"PNG".to_vec(), "Not a JPEG file: starts with 0x50 0x4e"),
        (frame(12, 3), "Unsupported JPEG data precision 12"),
        (frame(8, 2), "2 colour components"),
        (frame(8, 3), "Quantization table 0x00 was not defined"),
    ] {
        let error = decode(&bytes).unwrap_err().to_string();
        assert_eq!(&error[..expected.len().min(error.len())], expected);
    }
}

/// Broken bytes are decoded or refused; nothing is read or written elsewhere and nothing panics.
#[test]
fn broken_bytes_end_no_process() {
    let mut state = 1_u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let (mut decoded, mut refused) = (0, 0);
    for bytes in [BASELINE, PROGRESSIVE, CMYK, GRAY] {
        for _ in 0..250 {
            let mut bytes = bytes.to_vec();
            for _ in 0..=next(4) {
                let at = 2 + next(bytes.len() - 2);
                bytes[at] = next(256) as u8;
            }
            match Decoder::new(&bytes) {
                Ok(decoder) if decoder.header().width * decoder.header().height > 1_000_000 => {}
                Ok(decoder) => {
                    *if decoder.decode(Vec::new()).is_ok() {
                        &mut decoded
                    } else {
                        &mut refused
                    } += 1
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(decoded > 100 && refused > 50, "{decoded} {refused}");
}

/// A decoder of vector instructions gives the same pixels; it is built where `nasm` is.
#[test]
fn simd_is_reported() {
    assert!(cfg!(feature = "simd") || !neva_jpeg::has_simd());
}
