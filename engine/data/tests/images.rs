//! Compares decoding with PIL: `reference.json` in the folder of the images holds PIL's result for each of them, written
//! by `images/make.py`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![expect(clippy::print_stdout, reason = "prints each image and its difference from PIL")]

use std::{collections::BTreeMap, env, fs, path::Path};

use neva_data::{DataError, ImageSource, RgbImage};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// PIL's result: an error, or the size, hash and mean of the RGB bytes.
#[derive(Deserialize)]
struct Expected {
    error: Option<String>,
    size: Option<(usize, usize)>,
    rgb_sha256: Option<String>,
    rgb_mean: Option<[f64; 3]>,
    /// The result of `ImageOps.exif_transpose`, where it is another.
    upright: Option<Upright>,
}

#[derive(Deserialize)]
struct Upright {
    size: (usize, usize),
    rgb_sha256: String,
}

#[test]
fn committed_images_decode_as_in_pil() {
    check_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images"));
}

#[test]
fn images_of_another_folder_decode_as_in_pil() {
    match env::var_os("NEVA_PICTURES_DIR") {
        Some(folder) => check_folder(Path::new(&folder)),
        None => println!("NEVA_PICTURES_DIR is not set"),
    }
}

#[test]
fn images_of_extreme_size_are_rejected() {
    // The header of a BMP file holds the size. The size check comes first, so that the missing pixels do not matter.
    let bmp = |width: u32, height: u32| {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes.extend([1, 0, 24, 0]);
        bytes.resize(54, 0);
        RgbImage::decode(&bytes, "strip.bmp").unwrap_err().to_string()
    };
    for (width, height, expected) in [
        (30_001, 1000, "an edge of 30001 pixels, the limit is 30000"),
        (20_000, 20_000, "20000 x 20000 has more than 178956970 pixels"),
        (0, 4, "strip.bmp"),
    ] {
        let text = bmp(width, height);
        assert!(text.contains(expected) && text.contains("strip.bmp"), "{text}");
    }
    assert!(!bmp(1, 5000).contains("limit"));
}

/// Kinds of files that PIL reads and we do not: the message says what to do.
#[test]
fn unsupported_kinds_are_named() {
    let entry = |tag: u16, value: u16| [tag.to_le_bytes(), [3, 0], [1, 0], [0, 0], value.to_le_bytes(), [0, 0]].concat();
    let tiff = |entries: &[(u16, u16)]| {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend((entries.len() as u16).to_le_bytes());
        entries.iter().for_each(|&(tag, value)| bytes.extend(entry(tag, value)));
        bytes.resize(bytes.len() + 100, 0);
        bytes
    };
    let gray = |compression| {
        tiff(&[
            (256, 4),
            (257, 4),
            (258, 8),
            (259, compression),
            (262, 1),
            (273, 100),
            (278, 4),
            (279, 16),
        ])
    };
    for (bytes, expected) in [
        (gray(7), "this kind of TIFF file is not supported: "),
        (
            tiff(&[(256, 4), (257, 4), (258, 8), (262, 1), (266, 2), (273, 100), (279, 16)]),
            "FillOrder 2); convert it to PNG",
        ),
        (b"P7\nWIDTH 1".to_vec(), "not an image: the contents are not JPEG, PNG"),
        (b"P6 2 2 70000 ".to_vec(), "its maximum is 70000, not 1 to 65535"),
        (b"P5 2 two 255 ".to_vec(), "its header has no height"),
        (b"P3 1 1 9 1 2 x".to_vec(), "`x` is no sample of 0 to 9"),
    ] {
        let text = RgbImage::decode(&bytes, "file").unwrap_err().to_string();
        assert!(text.starts_with("file: ") && text.contains(expected), "{text}");
    }
}

/// Broken bytes give an image or an error: no panic, no endless loop.
#[test]
fn broken_files_are_decoded_or_rejected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let mut state = 7_u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let mut outcomes = [0, 0];
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        if bytes.is_empty() || bytes.starts_with(b"{") || bytes.len() > 9_000 {
            continue;
        }
        for _ in 0..12 {
            let mut bytes = bytes.clone();
            for _ in 0..=next(3) {
                // Most of the structure is at the beginning.
                let within = if next(2) == 0 { 64 } else { usize::MAX };
                let at = next(bytes.len().min(within));
                bytes[at] = next(256) as u8;
            }
            let cut = if next(4) == 0 { next(bytes.len()) } else { 0 };
            bytes.truncate(bytes.len() - cut);
            let small = |image: &RgbImage| image.width * image.height < 1 << 26;
            let outcome = RgbImage::decode_upright(&bytes, "broken");
            assert!(outcome.as_ref().map_or(true, small));
            outcomes[usize::from(outcome.is_ok())] += 1;
        }
    }
    assert!(outcomes[0] > 100 && outcomes[1] > 100, "{outcomes:?}");
}

fn check_folder(folder: &Path) {
    let reference = fs::read_to_string(folder.join("reference.json")).unwrap();
    let reference: BTreeMap<String, Expected> = serde_json::from_str(&reference).unwrap();
    assert!(!reference.is_empty());
    let failures: Vec<String> = reference
        .iter()
        .filter_map(|(name, expected)| check(&folder.join(name), expected).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} images differ:\n{}",
        failures.len(),
        reference.len(),
        failures.join("\n")
    );
}

fn check(path: &Path, expected: &Expected) -> Result<(), String> {
    let name = path.file_name().unwrap().to_string_lossy();
    let outcome = RgbImage::open(path);
    if let Some(pil_error) = &expected.error {
        let error = outcome.err().ok_or(format!("{name}: decoded, but PIL fails: {pil_error}"))?;
        println!("{name}: {error}");
        let text = error.to_string();
        let names_file = matches!(error, DataError::Image { .. }) && text.contains(&*name);
        return if names_file {
            Ok(())
        } else {
            Err(format!("{name}: the message does not name the file: {text}"))
        };
    }
    let image = outcome.map_err(|error| format!("{name}: {error}"))?;
    let size = (image.width, image.height);
    if expected.size != Some(size) {
        return Err(format!("{name}: size {size:?}, PIL has {:?}", expected.size));
    }
    let hash = |image: &RgbImage| format!("{:x}", Sha256::digest(&image.data));
    if expected.rgb_sha256.as_deref() != Some(&hash(&image)) {
        let mean = expected.rgb_mean.unwrap();
        let difference = (0..3)
            .map(|channel| (mean_of(&image, channel) - mean[channel]).abs())
            .fold(0.0, f64::max);
        return Err(format!("{name}: pixels differ, mean differs by {difference:.4}"));
    }
    let bytes = fs::read(path).unwrap();
    let upright = RgbImage::decode_upright(&bytes, &name).unwrap();
    let as_stored = Upright {
        size,
        rgb_sha256: hash(&image),
    };
    let expected_upright = expected.upright.as_ref().unwrap_or(&as_stored);
    if (expected_upright.size, &expected_upright.rgb_sha256) != ((upright.width, upright.height), &hash(&upright)) {
        return Err(format!("{name}: upright pixels differ"));
    }
    for (apply_exif, size) in [(false, size), (true, expected_upright.size)] {
        let source = ImageSource::folder(path.parent().unwrap()).with_exif(apply_exif);
        let found = source.size(&name).map_err(|error| error.to_string())?;
        if found != size {
            return Err(format!("{name}: size {found:?} of the header, expected {size:?}"));
        }
    }
    Ok(())
}

fn mean_of(image: &RgbImage, channel: usize) -> f64 {
    let sum: u64 = image.data.iter().skip(channel).step_by(3).map(|&byte| u64::from(byte)).sum();
    sum as f64 / (image.width * image.height) as f64
}
