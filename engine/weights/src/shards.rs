//! Writes safetensors files of a limited size, with an index, tensor by tensor.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
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
        let mut write_back = WriteBack::of(&file, path)?;
        let sink = Sink::File(&file, &mut write_back);
        self.pass(&mut Output { path, passed: 0, sink }, write)?;
        write_back.complete();
        Ok(write_back)
    }

    /// Returns whether the file `path` has exactly the bytes that [`Self::write`] would write.
    ///
    /// # Errors
    /// The file cannot be read, or as [`Self::write`].
    pub fn is_in(&self, path: &Path, write: &mut dyn FnMut(usize, &mut Output<'_>) -> Result<()>) -> Result<bool> {
        let file = File::open(path).map_err(WeightsError::io("read", path))?;
        let size = file.metadata().map_err(WeightsError::io("read", path))?.len();
        if size != self.len_bytes() {
            return Ok(false);
        }
        let mut output = Output {
            path,
            passed: 0,
            sink: Sink::Compared(BufReader::with_capacity(BUFFER, &file), true),
        };
        self.pass(&mut output, write)?;
        Ok(matches!(output.sink, Sink::Compared(_, true)))
    }

    /// Passes header and tensors to an output.
    fn pass(&self, output: &mut Output<'_>, write: &mut dyn FnMut(usize, &mut Output<'_>) -> Result<()>) -> Result<()> {
        output.bytes(&self.header)?;
        for (index, size) in self.tensors.iter().zip(&self.sizes) {
            output.passed = 0;
            write(*index, output)?;
            if output.passed != *size {
                return Err(WeightsError::Content {
                    path: output.path.to_owned(),
                    reason: format!("{} bytes of a tensor were written, but it has {size}", output.passed),
                    help: "",
                });
            }
        }
        Ok(())
    }
}

/// Bytes that are compared at once.
const BUFFER: usize = 1 << 20;

/// A file that is being written, or compared with what would be written.
#[derive(Debug)]
pub struct Output<'a> {
    path: &'a Path,
    /// Bytes of the current tensor so far.
    passed: u64,
    sink: Sink<'a>,
}

#[derive(Debug)]
enum Sink<'a> {
    File(&'a File, &'a mut WriteBack),
    /// The file, and whether it has had the same bytes so far.
    Compared(BufReader<&'a File>, bool),
}

impl Output<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.sink {
            Sink::File(file, write_back) => {
                file.write_all(bytes).map_err(WeightsError::io("write", self.path))?;
                write_back.wrote(bytes.len() as u64);
            }
            Sink::Compared(reader, is_same) if *is_same => {
                *is_same = has_next(reader, bytes).map_err(WeightsError::io("read", self.path))?;
            }
            // One difference is enough.
            Sink::Compared(..) => {}
        }
        self.passed += bytes.len() as u64;
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
        match &mut self.sink {
            Sink::File(file, write_back) => {
                let copied = io::copy(&mut reader.take(len), file).map_err(WeightsError::io("write", self.path))?;
                self.passed += copied;
                write_back.wrote(copied);
            }
            Sink::Compared(_, true) => {
                let (mut reader, mut buffer) = (reader.take(len), vec![0; BUFFER]);
                loop {
                    match reader.read(&mut buffer).map_err(WeightsError::io("read", &source.path))? {
                        0 => break,
                        read => self.bytes(buffer.get(..read).unwrap_or_default())?,
                    }
                }
            }
            Sink::Compared(_, false) => self.passed += len,
        }
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

/// Returns whether the next bytes of a file are these.
fn has_next(reader: &mut impl BufRead, mut bytes: &[u8]) -> io::Result<bool> {
    while !bytes.is_empty() {
        let next = reader.fill_buf()?;
        let count = next.len().min(bytes.len());
        if count == 0 || next.get(..count) != bytes.get(..count) {
            return Ok(false);
        }
        reader.consume(count);
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(true)
}
