//! Image processing against Hugging Face's processors and PIL: hashes of their outputs are in `processing/reference.json`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use neva_data::{DataError, ImageProcessor, Pixels, ProcessMode, Rgb};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Reference {
    processors: BTreeMap<String, Value>,
    processed: Vec<Processed>,
    resized: Vec<Resized>,
}

/// What a Hugging Face processor returned.
#[derive(Deserialize)]
struct Processed {
    picture: String,
    processor: String,
    mode: ProcessMode,
    shape: [usize; 3],
    sha256: String,
    sum: f64,
}

/// What PIL's `resize(.., BICUBIC)` returned.
#[derive(Deserialize)]
struct Resized {
    picture: String,
    size: [usize; 2],
    sha256: String,
}

#[test]
fn resize_is_pils_bit_for_bit() {
    let cases = reference().resized;
    assert!(cases.len() > 60);
    for Resized {
        picture,
        size: [width, height],
        sha256,
    } in cases
    {
        let resized = open(&picture).resized(width, height);
        assert_eq!(hash(&resized.data), sha256, "{picture} to {width}x{height}");
    }
}

#[test]
fn process_is_hugging_faces_bit_for_bit() {
    let Reference { processors, processed, .. } = reference();
    assert!(processed.len() > 60);
    let folder = tempfile::tempdir().unwrap();
    for case in processed {
        let file = folder.path().join("preprocessor_config.json");
        fs::write(&file, processors[&case.processor].to_string()).unwrap();
        let processor = ImageProcessor::open(folder.path()).unwrap().with_mode(case.mode);
        let Pixels { height, width, chw } = processor.process(&open(&case.picture));
        let label = format!("{} by {} in {:?} mode", case.picture, case.processor, case.mode);
        assert_eq!([3, height, width], case.shape, "{label}");
        let sum: f64 = chw.iter().map(|&x| f64::from(x)).sum();
        assert!(
            (sum - case.sum).abs() < 1e-6 * chw.len() as f64,
            "{label}: sum {sum}, there {}",
            case.sum
        );
        let bytes: Vec<u8> = chw.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(hash(&bytes), case.sha256, "{label}");
        if let Some(size) = processor.output_size() {
            assert_eq!(size, (height, width), "{label}: output_size");
        }
    }
}

#[test]
fn a_preprocessor_that_is_not_ours_is_refused() {
    let cases = [
        (
            json!({"image_processor_type": "Qwen2VLImageProcessor"}),
            "`Qwen2VLImageProcessor` is not known",
        ),
        (
            json!({"image_processor_type": "CLIPImageProcessor", "resample": 2}),
            "resample 2 is not supported",
        ),
        (json!({"size": "large"}), "a size is a number"),
        (json!({"crop_size": {"height": 0, "width": 3}}), "must be positive"),
        (json!([1]), "invalid"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (config, expected) in cases {
        let file = folder.path().join("p.json");
        fs::write(&file, config.to_string()).unwrap();
        let error = ImageProcessor::open(&file).unwrap_err();
        assert!(matches!(error, DataError::Processor { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("p.json") && text.contains(expected), "{config}: {text}");
    }
    let error = ImageProcessor::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("preprocessor_config.json"), "{error}");
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/processing")
}

fn reference() -> Reference {
    serde_json::from_str(&fs::read_to_string(folder().join("reference.json")).unwrap()).unwrap()
}

fn open(picture: &str) -> Rgb {
    Rgb::open(&folder().join(picture)).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
