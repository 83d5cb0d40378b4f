//! Compares decoding with PIL: `reference.json` in the folder of the images holds PIL's result for each of them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![expect(clippy::print_stdout, reason = "prints each image and its difference from PIL")]

use std::{collections::BTreeMap, env, fs, path::Path};

use neva_data::{DataError, RgbImage};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// PIL's result: an error, or the size, hash and mean of the RGB bytes.
#[derive(Deserialize)]
struct Expected {
    error: Option<String>,
    format: Option<String>,
    size: Option<(usize, usize)>,
    rgb_sha256: Option<String>,
    rgb_mean: Option<[f64; 3]>,
}

/// Formats with bitwise defined decoding. For other formats the mean colour is compared.
const EXACT: [&str; 3] = ["PNG", "GIF", "BMP"];

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
fn images_of_extreme_shape_are_rejected() {
    // The header of a BMP file holds the size. The size check comes first, so that the missing pixels do not matter.
    let bmp = |width: u32, height: u32| {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes.extend([1, 0, 24, 0]);
        bytes.resize(54, 0);
        RgbImage::decode(&bytes, "strip.bmp").unwrap_err().to_string()
    };
    for (width, height, expected) in [
        (2, 401, "200 times its width"),
        (30_001, 1000, "longer than 30000 pixels"),
        (20_000, 20_000, "bomb"),
        (0, 4, "strip.bmp"),
    ] {
        let text = bmp(width, height);
        assert!(text.contains(expected) && text.contains("strip.bmp"), "{text}");
    }
    assert!(!bmp(2, 400).contains("times"));
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
    let hash = format!("{:x}", Sha256::digest(&image.data));
    let equal = expected.rgb_sha256.as_deref() == Some(&hash);
    let mean = expected.rgb_mean.unwrap();
    let difference = (0..3)
        .map(|channel| (mean_of(&image, channel) - mean[channel]).abs())
        .fold(0.0, f64::max);
    println!(
        "{name}: {}x{}, {}",
        size.0,
        size.1,
        if equal {
            "equal".to_owned()
        } else {
            format!("mean differs by {difference:.4}")
        }
    );
    let exact = expected.format.as_deref().is_some_and(|format| EXACT.contains(&format));
    if !equal && (exact || difference > 0.5) {
        Err(format!("{name}: pixels differ, mean differs by {difference:.4}"))
    } else {
        Ok(())
    }
}

fn mean_of(image: &RgbImage, channel: usize) -> f64 {
    let sum: u64 = image.data.iter().skip(channel).step_by(3).map(|&byte| u64::from(byte)).sum();
    sum as f64 / (image.width * image.height) as f64
}
