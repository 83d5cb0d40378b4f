//! Files of torch and of llama.cpp's gguf package give the values that these packages read themselves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use neva_weights::{Format, MetadataValue, WeightFile, read_pickle};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// Compares every tensor of two files.
#[track_caller]
fn check(name: &str, format: Format, expected: &str) {
    let (file, expected) = (
        WeightFile::open(&fixture(name)).unwrap(),
        WeightFile::open(&fixture(expected)).unwrap(),
    );
    assert_eq!(file.format(), format);
    let names = |file: &WeightFile| {
        let mut names: Vec<_> = file.tensors().iter().map(|tensor| tensor.info.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&file), names(&expected));
    for tensor in file.tensors() {
        let wanted = expected.tensor(&tensor.info.name).unwrap();
        assert_eq!(tensor.info, wanted.info);
        assert_eq!(file.read(tensor).unwrap(), expected.read(wanted).unwrap(), "{}", tensor.info.name);
    }
}

#[test]
fn pickles_of_torch() {
    for name in ["torch.bin", "torch_legacy.bin", "torch_nested.bin"] {
        check(name, Format::Pickle, "torch.safetensors");
        read_pickle(&fixture(name)).unwrap();
    }
    let error = read_pickle(&fixture("torch.safetensors")).unwrap_err();
    assert!(error.to_string().contains("not a file of torch.save"), "{error}");
}

#[test]
fn views_of_one_storage_are_separate_tensors() {
    let file = WeightFile::open(&fixture("torch.bin")).unwrap();
    let range = |name: &str| file.tensor(name).unwrap().range();
    let (shared, rows) = (range("shared").unwrap(), range("rows").unwrap());
    assert!(shared.start < rows.start && rows.end < shared.end, "{shared:?} {rows:?}");
    assert_eq!((range("transposed"), range("columns")), (None, None));
}

#[test]
fn blocks_of_gguf() {
    check("blocks.gguf", Format::Gguf, "blocks.safetensors");
    let file = WeightFile::open(&fixture("blocks.gguf")).unwrap();
    assert_eq!(file.metadata().text("general.description"), Some("quantized blocks"));
    let list = |values: &[i128]| MetadataValue::Array(values.iter().map(|value| MetadataValue::Integer(*value)).collect());
    assert_eq!(file.metadata().array("list").unwrap(), [list(&[1, 2]), list(&[3])]);
}
