//! SteerLM's form of `.jsonl` records gives the samples of the same LLaVA records.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{fs, path::Path, sync::Arc};

use neva_data::{ChatTemplate, DataError, Dataset, ImagePosition, ImageProcessor, LlavaDataset, LlavaJsonConfig, Sample, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    steerlm: Value,
    llava: Option<Value>,
    problem: Option<String>,
}

/// Loads one record from a file of this name.
fn sample(folder: &Path, name: &str, content: &str) -> Result<Sample, DataError> {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    let config = LlavaJsonConfig {
        paths: vec![path],
        image_folder: None,
        apply_exif: false,
        template: ChatTemplate::named("v1").unwrap(),
        image_token_position: ImagePosition::Keep,
        reads_images: true,
    };
    let tokenizer = Arc::new(Tokenizer::builtin("mistral_2k").unwrap());
    let dataset = LlavaDataset::load(&config, tokenizer, ImageProcessor::clip(56))?;
    assert_eq!(dataset.len(), 1);
    dataset.get(0)
}

#[test]
fn records_of_the_steerlm_form_are_converted_or_refused() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("steerlm/cases.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processing");
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::copy(source.join("wide.png"), folder.path().join("wide.png")).unwrap();
    fs::copy(source.join("tall.png"), folder.path().join("sub/tall.png")).unwrap();
    for case in cases {
        let found = sample(folder.path(), "data.jsonl", &format!("{}\n", case.steerlm));
        match (found, case.llava, case.problem) {
            (Ok(found), Some(llava), None) => {
                let expected = sample(folder.path(), "data.json", &format!("[{llava}]")).unwrap();
                assert_eq!(found.name.replace(".jsonl", ".json"), expected.name);
                assert_eq!((found.ids, found.labels), (expected.ids, expected.labels), "{}", case.steerlm);
                assert_eq!(found.images, expected.images, "{}", case.steerlm);
            }
            (Err(DataError::Records { problems }), None, Some(expected)) => {
                let prefix = format!("{}: record 0", folder.path().join("data.jsonl").display());
                let found: Vec<_> = problems.iter().map(ToString::to_string).collect();
                assert_eq!(found.len(), 1, "{found:?}");
                let reason = found[0]
                    .strip_prefix(&prefix)
                    .unwrap()
                    .replace(folder.path().to_str().unwrap(), "DIR");
                assert_eq!(reason, expected);
            }
            (found, _, problem) => panic!("{}: {found:?}, expected {problem:?}", case.steerlm),
        }
    }
}
