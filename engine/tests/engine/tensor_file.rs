//! Tensor files that are truncated, forged or random.

use crate::setting::within_limit;
use neva_engine::checkpoint::{TensorFile, write_tensors};
use neva_engine::{EngineError, Result};
use neva_layout::Shard;
use neva_schemas::exit_class;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const KINDS: [Kind; 10] = [
    Kind::Float,
    Kind::BFloat16,
    Kind::Half,
    Kind::Double,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    (folder, path)
}

fn matrix(kind: Kind) -> Tensor {
    Tensor::arange(12, (Kind::Int64, Device::Cpu)).to_kind(kind).view([3, 4])
}

fn write_all(path: &Path) {
    let mut tensors: Vec<_> = KINDS.iter().map(|kind| (format!("{kind:?}"), matrix(*kind))).collect();
    tensors.push(("scalar".into(), Tensor::from(5f32)));
    tensors.push(("empty".into(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))));
    // Values are written in the order of the view, not of the memory.
    tensors.push(("transposed".into(), matrix(Kind::Float).transpose(0, 1)));
    write_tensors(path, tensors).unwrap();
}

/// Opens a file and reads all of it.
fn read_all(path: &Path) -> Result<usize> {
    let file = TensorFile::open(path)?;
    let names: Vec<_> = file.tensors().into_keys().collect();
    for name in &names {
        let _ = file.read(name, None)?;
    }
    Ok(names.len())
}

#[test]
fn written_tensors_are_read() {
    within_limit(|| {
        let (_folder, path) = scratch();
        write_all(&path);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.tensors().len(), KINDS.len() + 3);
        for kind in KINDS {
            let expected = matrix(kind);
            let name = format!("{kind:?}");
            let read = |shard| file.read(&name, shard).unwrap();
            let whole = read(None);
            assert_eq!(whole.kind(), kind);
            assert!(whole.equal(&expected), "{name}");
            for (dim, start, len) in [(0, 0, 3), (0, 1, 2), (0, 3, 0), (1, 0, 4), (1, 1, 2), (1, 4, 0)] {
                let part = read(Some(Shard {
                    dim,
                    start,
                    len,
                    padded: len,
                }));
                assert!(
                    part.equal(&expected.narrow(dim as i64, start as i64, len as i64)),
                    "{name}, {len} from {start} of dim {dim}"
                );
            }
        }
        assert_eq!(file.read("scalar", None).unwrap().double_value(&[]), 5.0);
        assert_eq!(file.read("empty", None).unwrap().size(), [0, 4]);
        assert!(file.read("transposed", None).unwrap().equal(&matrix(Kind::Float).transpose(0, 1)));
        let error = file.read("nobody", None).unwrap_err();
        assert!(error.to_string().contains("holds no tensor `nobody`"), "{error}");
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    });
}

#[track_caller]
fn check_refused(bytes: &[u8], expect: &str) {
    let (_folder, path) = scratch();
    std::fs::write(&path, bytes).unwrap();
    let error = read_all(&path).unwrap_err();
    assert!(matches!(error, EngineError::Content { .. }), "{error}");
    assert_eq!(error.exit_code(), exit_class::INPUT);
    let text = error.to_string();
    assert!(
        text.contains(&path.display().to_string()) && text.contains(expect),
        "{text}\nlacks: {expect}"
    );
}

#[test]
fn every_truncation_is_detected() {
    within_limit(|| {
        let (_folder, path) = scratch();
        write_all(&path);
        let bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for length in [0, 1, 7] {
            check_refused(&bytes[..length], "truncated: it ends before its header");
        }
        for length in [8, 9, 100, header - 1] {
            check_refused(&bytes[..length], "it ends within its header");
        }
        for length in [header, header + 1, bytes.len() / 2 + header / 2, bytes.len() - 1] {
            check_refused(
                &bytes[..length],
                &format!("truncated: {length} bytes, the header promises {}", bytes.len()),
            );
        }
        check_refused(&[&bytes[..], &[0]].concat(), "too long");
    });
}

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn forged_headers_are_refused() {
    within_limit(|| {
        for length in [u64::MAX, u64::MAX - 7, 1 << 40, 1 << 63] {
            check_refused(&[&length.to_le_bytes()[..], &[b'{'; 64]].concat(), "it ends within its header");
        }
        for (header, data) in [
            ("", 0),
            ("[]", 0),
            ("{\"a\": 1}", 0),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8),
            (r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}"#,
                20,
            ),
            (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8]}}"#, 8),
            (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#, 8),
        ] {
            check_refused(&file(header, data), "not a safetensors file");
        }
        let eight_bits = r#"{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#;
        check_refused(&file(eight_bits, 8), "not supported");
    });
}

/// Marsaglia's xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn random_damage_is_an_error_or_harmless() {
    within_limit(|| {
        let (_folder, path) = scratch();
        write_all(&path);
        let whole = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut refused = 0;
        for round in 0..2000 {
            let mut bytes = whole.clone();
            // Most of the damage affects the header.
            let reach = if round % 4 == 0 { bytes.len() } else { header };
            for _ in 0..=random.below(3) {
                let at = random.below(reach);
                match random.below(3) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] = b"0123456789[]{},:\""[random.below(17)],
                    _ => drop(bytes.remove(at)),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match read_all(&path) {
                Ok(_) => {}
                Err(EngineError::Content { .. }) => refused += 1,
                Err(other) => panic!("round {round}: {other}"),
            }
        }
        assert!((500..2000).contains(&refused), "{refused} of 2000 were refused");
        for round in 0..500 {
            let bytes: Vec<_> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(read_all(&path).is_err(), "round {round}");
        }
    });
}

#[test]
fn a_folder_is_refused() {
    within_limit(|| {
        let (folder, path) = scratch();
        let error = TensorFile::open(&path).unwrap_err();
        assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
        assert!(TensorFile::open(folder.path()).is_err());
        let error = write_tensors(
            &folder.path().join("no/such/folder.safetensors"),
            vec![("a".into(), Tensor::from(1f32))],
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    });
}
