//! Writes small files of weights for tests: safetensors, pickles as torch.save writes them, and GGUF.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

/// A tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// Its entry in the header.
    pub(crate) info: Value,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    /// Creates a tensor of fp32.
    pub(crate) fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            info: json!({"dtype": "F32", "shape": shape}),
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    pub(crate) fn shape(&self) -> Vec<u64> {
        let shape = self.info["shape"].as_array().unwrap();
        shape.iter().map(|size| size.as_u64().unwrap()).collect()
    }

    /// Returns the values of a tensor of fp32.
    pub(crate) fn values(&self) -> Vec<f32> {
        assert_eq!(self.info["dtype"], "F32");
        let values = self.bytes.chunks_exact(4);
        values.map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    }
}

/// Returns the tensors of a safetensors file, by name.
pub(crate) fn stored(file: &Path) -> Vec<Stored> {
    let bytes = fs::read(file).unwrap();
    let len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let (header, data) = bytes[8..].split_at(len);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let tensors = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, mut info)| {
            let at = |index: usize| usize::try_from(info["data_offsets"][index].as_u64().unwrap()).unwrap();
            let bytes = data[at(0)..at(1)].to_vec();
            info.as_object_mut().unwrap().remove("data_offsets");
            Stored { name, info, bytes }
        });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Returns the tensors that have a new name by `rename`.
pub(crate) fn renamed(from: &Path, rename: impl Fn(&str) -> Option<String>) -> Vec<Stored> {
    let renamed = stored(from).into_iter().filter_map(|tensor| {
        let name = rename(&tensor.name)?;
        Some(Stored { name, ..tensor })
    });
    renamed.collect()
}

/// Writes a safetensors file.
pub(crate) fn write(to: &Path, tensors: impl IntoIterator<Item = Stored>) {
    fs::write(to, safetensors(tensors)).unwrap();
}

/// Returns the bytes of a safetensors file.
pub(crate) fn safetensors(tensors: impl IntoIterator<Item = Stored>) -> Vec<u8> {
    let (mut head, mut body) = (Map::new(), Vec::new());
    for Stored { name, mut info, bytes } in tensors {
        let first = body.len();
        body.extend(bytes);
        info["data_offsets"] = json!([first, body.len()]);
        head.insert(name, info);
    }
    let head = Value::Object(head).to_string();
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head.as_bytes());
    bytes.extend(body);
    bytes
}

/// Returns the bytes of a file of torch.save with tensors of fp32.
pub(crate) fn pickle(tensors: &[Stored]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let number = |value: u64| [&b"J"[..], &i32::try_from(value).unwrap().to_le_bytes()].concat();
    let tuple = |values: &[u64]| [&b"("[..], &values.iter().flat_map(|value| number(*value)).collect::<Vec<_>>(), b"t"].concat();
    let mut code = b"\x80\x02ccollections\nOrderedDict\n)R".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        let shape = tensor.shape();
        let strides: Vec<_> = (0..shape.len()).map(|dim| shape[dim + 1..].iter().product::<u64>()).collect();
        code.extend(text(&tensor.name));
        code.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        code.extend(
            [
                text("storage"),
                b"ctorch\nFloatStorage\n".to_vec(),
                text(&index.to_string()),
                text("cpu"),
            ]
            .concat(),
        );
        code.extend(
            [
                number(tensor.bytes.len() as u64 / 4),
                b"tQ".to_vec(),
                number(0),
                tuple(&shape),
                tuple(&strides),
            ]
            .concat(),
        );
        code.extend(b"\x89ccollections\nOrderedDict\n)RtRs");
    }
    code.push(b'.');
    let mut files = vec![("archive/data.pkl".to_owned(), code)];
    let storages = tensors.iter().enumerate();
    files.extend(storages.map(|(index, tensor)| (format!("archive/data/{index}"), tensor.bytes.clone())));
    zip(&files)
}

/// Returns the bytes of a zip archive.
pub(crate) fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut central) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let at = u32::try_from(bytes.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        bytes.extend(
            [
                &b"PK\x03\x04"[..],
                &[0; 14],
                &size,
                &size,
                &length,
                &[0; 2],
                name.as_bytes(),
                content,
            ]
            .concat(),
        );
        central.extend(
            [
                &b"PK\x01\x02"[..],
                &[0; 16],
                &size,
                &size,
                &length,
                &[0; 12],
                &at.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let count = u16::try_from(files.len()).unwrap().to_le_bytes();
    let (start, size) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(central.len()).unwrap());
    bytes.extend(central);
    bytes.extend(
        [
            &b"PK\x05\x06"[..],
            &[0; 4],
            &count,
            &count,
            &size.to_le_bytes(),
            &start.to_le_bytes(),
            &[0; 2],
        ]
        .concat(),
    );
    bytes
}

/// A value of GGUF's metadata.
pub(crate) enum Meta<'a> {
    Number(u32),
    Float(f32),
    Text(&'a str),
    Flag(bool),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
}

/// Returns the bytes of a GGUF file with tensors of fp32.
pub(crate) fn gguf(metadata: &[(&str, Meta<'_>)], tensors: &[Stored]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let kind = |kind: u32| kind.to_le_bytes().to_vec();
    let counts = [tensors.len() as u64, metadata.len() as u64].map(u64::to_le_bytes).concat();
    let mut bytes = [b"GGUF".to_vec(), kind(3), counts].concat();
    for (key, value) in metadata {
        let value = match value {
            Meta::Number(value) => [kind(4), kind(*value)].concat(),
            Meta::Float(value) => [kind(6), value.to_le_bytes().to_vec()].concat(),
            Meta::Flag(value) => [kind(7), vec![u8::from(*value)]].concat(),
            Meta::Text(value) => [kind(8), text(value)].concat(),
            Meta::Texts(values) => {
                let all: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
                [kind(9), kind(8), (values.len() as u64).to_le_bytes().to_vec(), all].concat()
            }
            Meta::Numbers(values) => {
                let all: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                [kind(9), kind(5), (values.len() as u64).to_le_bytes().to_vec(), all].concat()
            }
        };
        bytes.extend([text(key), value].concat());
    }
    let mut at = 0_u64;
    for tensor in tensors {
        let shape = tensor.shape();
        let sizes: Vec<u8> = shape.iter().rev().flat_map(|size| size.to_le_bytes()).collect();
        let dims = kind(u32::try_from(shape.len()).unwrap());
        bytes.extend([text(&tensor.name), dims, sizes, kind(0), at.to_le_bytes().to_vec()].concat());
        at = (at + tensor.bytes.len() as u64).next_multiple_of(32);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&tensor.bytes);
    }
    bytes
}
