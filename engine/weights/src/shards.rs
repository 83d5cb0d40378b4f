//! Writes safetensors files of a limited size, with an index, tensor by tensor.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::{
    error::{Result, WeightsError},
    file::WeightFile,
    tensor::TensorInfo,
    write_back::WriteBack,
};

/// File name of the only shard.
const SINGLE: &str = "model.safetensors";
/// Alignment of the data in a file, as that of other writers.
const ALIGNMENT: usize = 8;

/// Files to write for a list of tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Shards {
    /// The files.
    pub shards: Vec<Shard>,
    /// Content of `model.safetensors.index.json`, if there are several files.
    pub index: Option<String>,
}

/// A safetensors file to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// Its first bytes: the length of the header and the header.
    pub header: Vec<u8>,
    /// Indices of its tensors in the list, in the order of their data.
    pub tensors: Vec<usize>,
    /// Bytes of each of them.
    sizes: Vec<u64>,
}

impl Shards {
    /// Divides tensors among files of at most `limit` bytes of data, in their order. A larger tensor has a file of its own.
    pub fn plan(tensors: &[TensorInfo], limit: u64) -> Self {
        let mut groups: Vec<(u64, Vec<usize>)> = vec![(0, Vec::new())];
        for (index, tensor) in tensors.iter().enumerate() {
            let size = tensor.len_bytes();
            match groups.last_mut() {
                Some((filled, group)) if group.is_empty() || *filled + size <= limit => {
                    *filled += size;
                    group.push(index);
                }
                _ => groups.push((size, vec![index])),
            }
        }
        let count = groups.len();
        let name = |number: usize| {
            if count == 1 {
                SINGLE.to_owned()
            } else {
                format!("model-{:05}-of-{count:05}.safetensors", number + 1)
            }
        };
        let shards: Vec<_> = groups
            .into_iter()
            .enumerate()
            .map(|(number, (_, group))| Shard::new(name(number), tensors, group))
            .collect();
        let index = (count > 1).then(|| {
            let total: u64 = tensors.iter().map(TensorInfo::len_bytes).sum();
            let of_shard = |shard: &Shard| {
                let names = shard.tensors.iter().map(|index| tensors[*index].name.clone());
                names.map(|tensor| (tensor, json!(shard.name))).collect::<Vec<_>>()
            };
            let map: Map<String, Value> = shards.iter().flat_map(of_shard).collect();
            format!("{:#}\n", json!({"metadata": {"total_size": total}, "weight_map": map}))
        });
        Self { shards, index }
    }
}

impl Shard {
    fn new(name: String, all: &[TensorInfo], mut tensors: Vec<usize>) -> Self {
        // Wider kinds first, so that each tensor begins at a multiple of its kind's size.
        tensors.sort_by_key(|index| std::cmp::Reverse(all[*index].dtype.bitsize()));
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let (mut at, mut sizes) = (0, Vec::new());
        for tensor in tensors.iter().map(|index| &all[*index]) {
            let size = tensor.len_bytes();
            let entry = json!({"dtype": tensor.dtype.to_string(), "shape": tensor.shape, "data_offsets": [at, at + size]});
            header.insert(tensor.name.clone(), entry);
            sizes.push(size);
            at += size;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        Self {
            name,
            header,
            tensors,
            sizes,
        }
    }

    /// Returns the size of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.header.len() as u64 + self.sizes.iter().sum::<u64>()
    }

    /// Writes the file `path`. `write` passes the bytes of the tensor of an index to the output. Returns the thread that brings
    /// the file to the disk.
    ///
    /// # Errors
    /// The file cannot be written, or `write` fails or passes another number of bytes than the tensor has.
    pub fn write(&self, path: &Path, write: &mut dyn FnMut(usize, &mut Output<'_>) -> Result<()>) -> Result<WriteBack> {
        let file = File::create(path).map_err(WeightsError::io("write", path))?;
        let mut output = Output {
            file: &file,
            path,
            written: 0,
            write_back: WriteBack::of(&file, path)?,
        };
        output.bytes(&self.header)?;
        for (index, size) in self.tensors.iter().zip(&self.sizes) {
            output.written = 0;
            write(*index, &mut output)?;
            if output.written != *size {
                return Err(WeightsError::Content {
                    path: path.to_owned(),
                    reason: format!("{} bytes of a tensor were written, but it has {size}", output.written),
                    help: "",
                });
            }
        }
        output.write_back.complete();
        Ok(output.write_back)
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct Output<'a> {
    file: &'a File,
    path: &'a Path,
    written: u64,
    write_back: WriteBack,
}

impl Output<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let mut file = self.file;
        file.write_all(bytes).map_err(WeightsError::io("write", self.path))?;
        self.written += bytes.len() as u64;
        self.write_back.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Appends a range of another file, within the kernel where the file systems allow it.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn copy(&mut self, from: &WeightFile, range: Range<u64>) -> Result<()> {
        let (source, len) = (from.source(), range.end - range.start);
        let mut reader = &source.file;
        reader
            .seek(SeekFrom::Start(range.start))
            .map_err(WeightsError::io("read", &source.path))?;
        let mut file = self.file;
        let copied = io::copy(&mut reader.take(len), &mut file).map_err(WeightsError::io("write", self.path))?;
        self.written += copied;
        self.write_back.wrote(copied);
        Ok(())
    }

    /// Appends a whole tensor of another file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn tensor(&mut self, from: &WeightFile, name: &str) -> Result<()> {
        let Some(tensor) = from.tensor(name) else {
            return Err(from.source().wrong(format!("has no tensor `{name}`"), ""));
        };
        match tensor.range() {
            Some(range) => self.copy(from, range),
            None => from.stream(tensor, &mut |bytes| self.bytes(bytes)),
        }
    }
}
