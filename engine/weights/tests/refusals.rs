//! Files that lie about their content are refused with a sentence, whatever their bytes: nothing is executed, no memory is
//! allocated for what they promise, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use neva_weights::{WeightFile, WeightsError};
use proptest::{prelude::*, test_runner::Config};

/// Writes a file of these bytes and opens it.
fn open(bytes: &[u8]) -> Result<WeightFile, WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, bytes).unwrap();
    WeightFile::open(&path)
}

/// Checks that a file is refused with a message that contains each of `words`.
#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let error = open(bytes).expect_err("the file is refused");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

/// Returns a safetensors file with this header, before `data` bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn headers_of_safetensors() {
    let cases: &[(&str, usize, &[&str])] = &[
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            12,
            &["`b` overlaps another tensor"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
            12,
            &["bytes 4 to 8 in front of `b` belong to no tensor"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8,
            &["two tensors `a`"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}}"#,
            4,
            &["too large"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#,
            4,
            &["too large"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}"#,
            4,
            &["too large"],
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1000000000000],"data_offsets":[0,1000000000000]}}"#,
            4,
            &["truncated", "but the header says"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#,
            8,
            &["4 bytes by its shape", "offsets 0 and 8"],
        ),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#, 8, &["offsets 8 and 4"]),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}"#,
            8,
            &["not a safetensors file"],
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            4,
            &["not a safetensors file"],
        ),
        (
            r#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#,
            4,
            &["not a safetensors file"],
        ),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 5, &["too long: "]),
        (r#"{"a""#, 4, &["not a safetensors file"]),
        ("[]", 4, &["not a safetensors file"]),
    ];
    for (header, data, words) in cases {
        refused(&safetensors(header, *data), words);
    }
    // A header whose length has the first bytes of a pickle.
    let header = format!("{:1$}", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 0x0280);
    assert_eq!(open(&safetensors(&header, 4)).unwrap().tensors().len(), 1);
    let mut lying = safetensors("{}", 0);
    for length in [u64::MAX, 1 << 63, 3, 100_000_001] {
        lying[..8].copy_from_slice(&length.to_le_bytes());
        refused(&lying, &["ends within its header"]);
    }
    refused(b"", &["truncated", "ends before its header"]);
    // Files of other kinds are not called damaged.
    for text in [
        "# README\n\nA model.\n",
        "<!DOCTYPE html>\n<html>",
        "{\"model_type\": \"llava\"}",
        "x",
        "8 bytes.",
    ] {
        refused(text.as_bytes(), &["not a file of weights"]);
    }
    refused(&[255; 64], &["not a file of weights"]);
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", &["git-lfs"]);
}

/// Returns a zip archive as torch.save writes it.
fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let (mut bytes, mut central) = (Vec::new(), Vec::new());
    let files = [("x/data.pkl", pickle), ("x/data/0", storage)];
    for (name, content) in files {
        let at = u32::try_from(bytes.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        bytes.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend([size, size].concat());
        bytes.extend([&length[..], &[0, 0], name.as_bytes(), content].concat());
        central.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        central.extend([size, size].concat());
        central.extend([&length[..], &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let (start, size) = (bytes.len(), central.len());
    bytes.extend(central);
    bytes.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    bytes.extend(u32::try_from(size).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(start).unwrap().to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// Returns a pickle of one tensor `w` of fp32, in a storage of `numel` values.
fn tensor(numel: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let number = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i32]| {
        let items: Vec<u8> = values.iter().flat_map(|value| number(*value)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    [
        &b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
            [..],
        &number(numel),
        b"tQ",
        &number(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89NtRs.",
    ]
    .concat()
}

#[test]
fn pickles_with_code_are_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    let proof = dir.path().join("executed");
    let touch = format!("touch {}", proof.display());
    let text = |text: &str| [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let cases: &[(Vec<u8>, &str)] = &[
        (
            [b"\x80\x02cos\nsystem\n".as_slice(), &text(&touch), b"\x85R."].concat(),
            "`os.system`",
        ),
        (
            [b"\x80\x02cposix\nsystem\n".as_slice(), &text(&touch), b"\x85R."].concat(),
            "`posix.system`",
        ),
        (
            [b"\x80\x02c__builtin__\neval\n".as_slice(), &text("1"), b"\x85R."].concat(),
            "`__builtin__.eval`",
        ),
        (
            [b"\x80\x02cbuiltins\nexec\n".as_slice(), &text("1"), b"\x85R."].concat(),
            "`builtins.exec`",
        ),
        (
            [
                b"\x80\x04".as_slice(),
                &text("subprocess"),
                &text("Popen"),
                b"\x93",
                &text("id"),
                b"\x85R.",
            ]
            .concat(),
            "`subprocess.Popen`",
        ),
        ([b"(".as_slice(), &text(&touch), b"ios\nsystem\n."].concat(), "`os.system`"),
        (b"\x80\x02ctorch\nload\n.".to_vec(), "`torch.load`"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.".to_vec(),
            "`torch._utils._rebuild_qtensor`",
        ),
        (
            b"\x80\x02cnumpy.core.multiarray\nscalar\n.".to_vec(),
            "`numpy.core.multiarray.scalar`",
        ),
        (b"\x80\x02cevil\x1b[31m\nx\n.".to_vec(), "`evil\\u{1b}[31m.x`"),
    ];
    for (pickle, name) in cases {
        refused(&archive(pickle, &[]), &["asks for", name, "not executed"]);
    }
    assert!(!proof.exists());
}

#[test]
fn pickles_that_lie() {
    assert_eq!(
        open(&archive(&tensor(4, 0, &[2, 2], &[2, 1]), &[0; 16])).unwrap().tensors().len(),
        1
    );
    let cases: &[(Vec<u8>, usize, &[&str])] = &[
        (
            tensor(8, 0, &[2, 2], &[2, 1]),
            16,
            &["needs a storage of 8 values, but the file has 4"],
        ),
        (tensor(4, 1, &[2, 2], &[2, 1]), 16, &["beyond its storage of 4 values"]),
        (tensor(4, 0, &[2, 2], &[3, 1]), 16, &["beyond its storage of 4 values"]),
        (tensor(4, 0, &[2, 2], &[i32::MAX, i32::MAX]), 16, &["beyond its storage"]),
        (tensor(4, -1, &[2, 2], &[2, 1]), 16, &["offset of a tensor is not a size"]),
        (tensor(4, 0, &[-2, 2], &[2, 1]), 16, &["shape of a tensor is not a tuple of sizes"]),
        (tensor(4, 0, &[2, 2], &[2]), 16, &["2 sizes and 1 strides"]),
        (tensor(4, 0, &[i32::MAX, i32::MAX], &[0, 0]), 16, &["repeats values"]),
        (tensor(4, 0, &[i32::MAX; 5], &[0; 5]), 16, &["too large"]),
        (tensor(-1, 0, &[1], &[1]), 16, &["a storage has no size"]),
        (b"\x80\x02K\x01.".to_vec(), 0, &["holds no tensors by name, but an int"]),
        (b"\x80\x02}X\x05\0\0\0epochK\x01s.".to_vec(), 0, &["a dict of epoch"]),
        (b"\x80\x09N.".to_vec(), 0, &["protocol 9"]),
        (b"\x80\x02".to_vec(), 0, &["truncated"]),
        (b"\x80\x02.".to_vec(), 0, &["the stack is empty"]),
        (b"\x80\x02t.".to_vec(), 0, &["a mark is missing"]),
        (b"\x80\x02h\x09.".to_vec(), 0, &["the memo has no value 9"]),
        (b"\x80\x02\xff.".to_vec(), 0, &["opcode 0xff"]),
        (b"\x80\x02X\xff\xff\xff\xff.".to_vec(), 0, &["truncated"]),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), 0, &["truncated"]),
        (b"\x80\x02K\x01Q.".to_vec(), 0, &["no storage"]),
    ];
    for (pickle, storage, words) in cases {
        refused(&archive(pickle, &vec![0; *storage]), words);
    }
    // A million tuples in each other are no depth of our stack.
    let deep = [&b"\x80\x02)"[..], &vec![b'\x85'; 1 << 20], b"."].concat();
    refused(&archive(&deep, &[]), &["holds no tensors"]);
    refused(b"PK\x03\x04", &["truncated"]);
    refused(b"\x80\x02}.", &["not from torch.save"]);
}

/// Returns a GGUF file: version, counts, and the rest of its bytes.
fn gguf(version: u32, tensors: u64, entries: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat();
    bytes.extend(rest.concat());
    bytes.resize(bytes.len().max(256), 0);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Returns a tensor in a header of GGUF.
fn gguf_tensor(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let sizes_bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
    let dims = u32::try_from(sizes.len()).unwrap().to_le_bytes();
    [&text(name)[..], &dims, &sizes_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn gguf_files_that_lie() {
    let one = |sizes: &[u64], kind: u32, offset: u64| gguf(3, 1, 0, &[&gguf_tensor("w", sizes, kind, offset)]);
    assert_eq!(open(&one(&[2, 3], 0, 32)).unwrap().tensors()[0].info.shape, [3, 2]);
    let array = |kind: u32, count: u64| [&text("a")[..], &9_u32.to_le_bytes(), &kind.to_le_bytes(), &count.to_le_bytes()].concat();
    let cases: &[(Vec<u8>, &[&str])] = &[
        (one(&[2, 3], 0, 256), &["truncated", "`w` has 24 bytes"]),
        (one(&[2, 3], 0, u64::MAX - 31), &["truncated"]),
        (one(&[2, 3], 0, 7), &["not a multiple of 32"]),
        (one(&[1 << 40, 1 << 40], 0, 0), &["too large"]),
        (one(&[1 << 61, 1], 0, 0), &["truncated"]),
        (one(&[33], 8, 0), &["rows of 33 values, but Q8_0 has blocks of 32"]),
        (one(&[32], 10, 0), &["`w` has the type Q2_K", "readable are", "Q4_1"]),
        (one(&[32], 77, 0), &["the type 77"]),
        (
            gguf(3, 2, 0, &[&gguf_tensor("a", &[16], 0, 0), &gguf_tensor("b", &[16], 0, 32)]),
            &["`a` and `b` overlap"],
        ),
        (
            gguf(3, 2, 0, &[&gguf_tensor("a", &[1], 0, 0), &gguf_tensor("a", &[1], 0, 32)]),
            &["two tensors `a`"],
        ),
        (gguf(3, u64::MAX, 0, &[]), &["more than its 256 bytes can hold"]),
        (gguf(3, 0, u64::MAX, &[]), &["more than its 256 bytes can hold"]),
        (gguf(1, 0, 0, &[]), &["GGUF version 1"]),
        (gguf(4, 0, 0, &[]), &["GGUF version 4"]),
        (gguf(3_u32.swap_bytes(), 0, 0, &[]), &["big-endian"]),
        (gguf(3, 0, 1, &[&u64::MAX.to_le_bytes()]), &["a text in its header has"]),
        (gguf(3, 0, 1, &[&1000_u64.to_le_bytes()]), &["truncated"]),
        (gguf(3, 0, 1, &[&2_u64.to_le_bytes(), &[0xff, 0xff]]), &["not UTF-8"]),
        (gguf(3, 0, 1, &[&text("a"), &99_u32.to_le_bytes()]), &["unknown type 99"]),
        (gguf(3, 0, 1, &[&array(4, u64::MAX)]), &["an array in its header has"]),
        (gguf(3, 0, 1, &[&array(8, 200)]), &["truncated"]),
        (
            gguf(3, 0, 1, &[&text("general.alignment"), &4_u32.to_le_bytes(), &0_u32.to_le_bytes()]),
            &["alignment is not a power of two"],
        ),
        (
            gguf(
                3,
                0,
                2,
                &[&text("a"), &7_u32.to_le_bytes(), &[1], &text("a"), &7_u32.to_le_bytes(), &[1]],
            ),
            &["\"a\" twice"],
        ),
        (gguf(3, 1, 0, &[&text("w"), &99_u32.to_le_bytes()]), &["`w` has 99 dims"]),
    ];
    for (bytes, words) in cases {
        refused(bytes, words);
    }
    // Arrays in arrays in arrays.
    let nested: Vec<u8> = (0..40)
        .flat_map(|_| [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat())
        .collect();
    refused(
        &gguf(3, 0, 1, &[&text("a"), &9_u32.to_le_bytes(), &nested]),
        &["an array in its header"],
    );
}

/// Opens a damaged file, and reads all of it if it is accepted.
fn read_all(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, bytes).unwrap();
    let Ok(file) = WeightFile::open(&path) else { return };
    for tensor in file.tensors() {
        assert!(tensor.info.len_bytes() <= 16 * bytes.len() as u64, "{tensor:?}");
        let read = file.read(tensor).unwrap();
        assert_eq!(read.len() as u64, tensor.info.len_bytes());
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    /// No change of a valid file panics, or makes a tensor larger than its file.
    #[test]
    fn damaged_files(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let name = ["torch.safetensors", "torch.bin", "torch_legacy.bin", "blocks.gguf"][which];
        let path = PathBuf::from(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR")));
        let mut bytes = fs::read(path).unwrap();
        // Headers are at the start and at the end.
        let headers = bytes.len().min(1600);
        for (at, value) in changes {
            let at = at.index(2 * headers);
            let at = if at < headers { at } else { bytes.len() - 2 * headers + at };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    /// Random pickles neither panic nor run forever.
    #[test]
    fn random_pickles(code in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&archive(&[&b"\x80\x02"[..], &code].concat(), &[0; 16]));
    }
}
