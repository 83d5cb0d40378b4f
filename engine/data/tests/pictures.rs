//! Decoding against PIL's own verdicts: `reference.json` beside the pictures says what PIL made of each of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "names each picture and how far it is from PIL's")]

use std::{collections::BTreeMap, env, fs, path::Path};

use neva_data::{DataError, Rgb};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// PIL's verdict: an error, or size, hash and mean of the RGB bytes.
#[derive(Deserialize)]
struct Verdict {
    error: Option<String>,
    format: Option<String>,
    size: Option<(usize, usize)>,
    rgb_sha256: Option<String>,
    rgb_mean: Option<[f64; 3]>,
}

/// Formats whose decoding leaves no freedom; others are compared by their mean colour.
const EXACT: [&str; 3] = ["PNG", "GIF", "BMP"];

#[test]
fn pictures_of_the_project_decode_as_in_pil() {
    check_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures"));
}

#[test]
fn pictures_of_another_folder_decode_as_in_pil() {
    match env::var_os("NEVA_PICTURES_DIR") {
        Some(folder) => check_folder(Path::new(&folder)),
        None => println!("NEVA_PICTURES_DIR is not set"),
    }
}

#[test]
fn pictures_of_absurd_shape_are_refused() {
    // The header of a BMP file tells the size; the check comes before the pixels are missed.
    let bmp = |width: u32, height: u32| {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bytes.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
        bytes.extend([1, 0, 24, 0]);
        bytes.resize(54, 0);
        Rgb::decode(&bytes, "strip.bmp").unwrap_err().to_string()
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
    let reference: BTreeMap<String, Verdict> = serde_json::from_str(&reference).unwrap();
    assert!(!reference.is_empty());
    let failures: Vec<String> = reference
        .iter()
        .filter_map(|(name, verdict)| check(&folder.join(name), verdict).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} pictures differ:\n{}",
        failures.len(),
        reference.len(),
        failures.join("\n")
    );
}

fn check(path: &Path, verdict: &Verdict) -> Result<(), String> {
    let name = path.file_name().unwrap().to_string_lossy();
    let outcome = Rgb::open(path);
    if let Some(expected) = &verdict.error {
        let error = outcome.err().ok_or(format!("{name}: decoded, PIL says {expected}"))?;
        println!("{name}: {error}");
        let text = error.to_string();
        let told = matches!(error, DataError::Picture { .. }) && text.contains(&*name);
        return if told {
            Ok(())
        } else {
            Err(format!("{name}: the message does not name the file: {text}"))
        };
    }
    let picture = outcome.map_err(|error| format!("{name}: {error}"))?;
    let size = (picture.width, picture.height);
    if verdict.size != Some(size) {
        return Err(format!("{name}: size {size:?}, PIL has {:?}", verdict.size));
    }
    let hash = format!("{:x}", Sha256::digest(&picture.data));
    let equal = verdict.rgb_sha256.as_deref() == Some(&hash);
    let mean = verdict.rgb_mean.unwrap();
    let off = (0..3)
        .map(|channel| (mean_of(&picture, channel) - mean[channel]).abs())
        .fold(0.0, f64::max);
    println!(
        "{name}: {}x{}, {}",
        size.0,
        size.1,
        if equal {
            "equal".to_owned()
        } else {
            format!("mean off by {off:.4}")
        }
    );
    let exact = verdict.format.as_deref().is_some_and(|format| EXACT.contains(&format));
    if !equal && (exact || off > 0.5) {
        Err(format!("{name}: pixels differ, mean off by {off:.4}"))
    } else {
        Ok(())
    }
}

fn mean_of(picture: &Rgb, channel: usize) -> f64 {
    let sum: u64 = picture.data.iter().skip(channel).step_by(3).map(|&byte| u64::from(byte)).sum();
    sum as f64 / (picture.width * picture.height) as f64
}
