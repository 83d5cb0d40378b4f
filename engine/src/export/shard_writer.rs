//! Writes safetensors files tensor by tensor. No more than the tensor at hand is in memory.
//!
//! A header lists all tensors of its file and comes first. Its space is reserved, and it is written last; the rest of the
//! space is blanks, which the format allows.

use crate::checkpoint::Extent;
use crate::error::{EngineError, Result};
use neva_weights::{Unsynced, WriteBack};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Bytes that are copied from a tensor at once.
const CHUNK: i64 = 8 << 20;

/// Bytes of a header for one tensor, besides its name: data type, shape and two offsets.
const ENTRY: usize = 200;

/// Writer of one file or of several with an index.
#[derive(Debug)]
pub(super) struct ShardWriter {
    folder: PathBuf,
    /// Name of the files without their ending.
    stem: &'static str,
    max_bytes: u64,
    /// Bytes that are reserved for each header.
    header: u64,
    open: Option<OpenFile>,
    /// Written files under their temporary names, with their tensors.
    written: Vec<(PathBuf, Vec<String>)>,
    unsynced: Unsynced,
    total_bytes: u64,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Arc<File>,
    write_back: WriteBack,
    tensors: Map<String, Value>,
    names: Vec<String>,
    bytes: u64,
}

impl ShardWriter {
    /// Creates a writer of `STEM.safetensors`, or of `STEM-00001-of-0000N.safetensors` if the tensors exceed `max_bytes`.
    /// `names` are the tensors to come.
    pub(super) fn new<'a>(folder: &Path, stem: &'static str, max_bytes: u64, names: impl Iterator<Item = &'a str>) -> Self {
        let entries: usize = names.map(|name| name.len() + ENTRY).sum();
        Self {
            folder: folder.to_owned(),
            stem,
            max_bytes,
            header: (entries + ENTRY).next_multiple_of(8) as u64,
            open: None,
            written: Vec::new(),
            unsynced: Unsynced::default(),
            total_bytes: 0,
            buffer: Vec::new(),
        }
    }

    /// Writes a tensor to the current file, or to the next one if this is full.
    ///
    /// # Errors
    /// The disk is full, or the folder cannot be written.
    pub(super) fn add(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let (open, buffer) = self.place(name, tensor.kind(), json!(tensor.size()), tensor.numel())?;
        open.write(tensor, buffer)
    }

    /// Copies a tensor of another file, as [`Self::add`], and returns its place. The check of the export looks for values that are
    /// no numbers.
    ///
    /// # Errors
    /// As [`Self::add`]; the tensor cannot be read.
    pub(super) fn copy(&mut self, name: &str, extent: &Extent) -> Result<Extent> {
        let header = 8 + self.header;
        let (open, _) = self.place(name, extent.kind, json!(extent.shape), extent.shape.iter().product())?;
        let OpenFile {
            path,
            file,
            write_back,
            bytes,
            ..
        } = open;
        let written = Extent::new(path, Arc::clone(file), header + *bytes, extent.kind, extent.shape.clone());
        extent.append_to(file, path, &mut |copied| {
            *bytes += copied;
            write_back.wrote(copied);
        })?;
        Ok(written)
    }

    /// Enters a tensor in the header of the current file, or of the next one if this is full.
    fn place(&mut self, name: &str, kind: Kind, shape: Value, values: usize) -> Result<(&mut OpenFile, &mut Vec<u8>)> {
        let dtype = dtype(kind).ok_or_else(|| EngineError::Bug(format!("a tensor of kind {kind:?} cannot be saved")))?;
        let size = kind.elt_size_in_bytes();
        let bytes = (values * size) as u64;
        if let Some(open) = &self.open
            // torch views a tensor in its file only at a multiple of its values' size.
            && (open.bytes + bytes > self.max_bytes || !open.bytes.is_multiple_of(size as u64))
        {
            self.close()?;
        }
        let open = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => self.open.insert(OpenFile::create(&self.folder, self.written.len(), self.header)?),
        };
        let first = open.bytes;
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [first, first + bytes] });
        open.tensors.insert(name.to_owned(), entry);
        open.names.push(name.to_owned());
        self.total_bytes += bytes;
        Ok((open, &mut self.buffer))
    }

    /// Completes the files, and writes the index if there are several. Returns the files, which may not be on disk yet.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn finish(mut self) -> Result<Unsynced> {
        if self.open.is_none() && self.written.is_empty() {
            self.open = Some(OpenFile::create(&self.folder, 0, self.header)?);
        }
        self.close()?;
        let count = self.written.len();
        let mut map = Map::new();
        for (number, (path, names)) in (1..).zip(std::mem::take(&mut self.written)) {
            let file = match count {
                1 => format!("{}.safetensors", self.stem),
                several => format!("{}-{number:05}-of-{several:05}.safetensors", self.stem),
            };
            let target = self.folder.join(&file);
            std::fs::rename(&path, &target).map_err(EngineError::io("write", &target))?;
            map.extend(names.into_iter().map(|name| (name, file.clone().into())));
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": self.total_bytes }, "weight_map": map });
            let file = format!("{}.safetensors.index.json", self.stem);
            super::files::write_json(&self.folder.join(&file), &index)?;
        }
        Ok(self.unsynced)
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let OpenFile { path, names, .. } = &open;
        self.written.push((path.clone(), names.clone()));
        Ok(self.unsynced.add(open.close(self.header)?)?)
    }
}

impl OpenFile {
    fn create(folder: &Path, number: usize, header: u64) -> Result<Self> {
        let path = folder.join(format!("tensors-{number:05}.writing"));
        let create = || {
            // The check reads it while it is written.
            let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.seek(SeekFrom::Start(8 + header))?;
            Ok(file)
        };
        let file = create().map_err(EngineError::io("write", &path))?;
        Ok(Self {
            write_back: WriteBack::of(&file, &path)?,
            path,
            file: Arc::new(file),
            tensors: Map::new(),
            names: Vec::new(),
            bytes: 0,
        })
    }

    fn write(&mut self, tensor: &Tensor, buffer: &mut Vec<u8>) -> Result<()> {
        if tensor.numel() == 0 {
            return Ok(());
        }
        let bytes = tensor
            .f_to_device(Device::Cpu)?
            .f_contiguous()?
            .f_flatten(0, -1)?
            .f_view_dtype(Kind::Uint8)?;
        let length = bytes.numel() as i64;
        let mut at = 0;
        while at < length {
            let size = CHUNK.min(length - at);
            buffer.resize(size as usize, 0);
            bytes.f_narrow(0, at, size)?.f_copy_data_u8(buffer, size as usize)?;
            self.append(buffer)?;
            at += size;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).map_err(EngineError::io("write", &self.path))?;
        self.bytes += bytes.len() as u64;
        self.write_back.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Writes the header. Returns the thread that brings the file to the disk.
    fn close(mut self, header: u64) -> Result<WriteBack> {
        // transformers refuses a file without this metadata.
        self.tensors.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut bytes = header.to_le_bytes().to_vec();
        serde_json::to_writer(&mut bytes, &self.tensors)
            .map_err(|error| EngineError::Bug(format!("cannot be written as JSON: {error}")))?;
        let reserved = 8 + header as usize;
        if bytes.len() > reserved {
            return Err(EngineError::Bug(format!(
                "a header of {} bytes has room for {reserved}",
                bytes.len()
            )));
        }
        bytes.resize(reserved, b' ');
        let write = || {
            let mut file = &*self.file;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&bytes)
        };
        write().map_err(EngineError::io("write", &self.path))?;
        self.write_back.complete();
        Ok(self.write_back)
    }
}

/// Returns the name of a kind in safetensors' headers.
fn dtype(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Float => "F32",
        Kind::BFloat16 => "BF16",
        Kind::Half => "F16",
        Kind::Double => "F64",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Int16 => "I16",
        Kind::Int8 => "I8",
        Kind::Uint8 => "U8",
        Kind::Bool => "BOOL",
        _ => return None,
    })
}
