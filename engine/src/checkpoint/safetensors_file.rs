//! One safetensors file: read slice by slice, written aside and renamed.

use crate::error::{EngineError, Result};
use neva_layout::Shard;
use safetensors::tensor::{Dtype, Metadata, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Bytes in front of the header: its length.
const PREFIX: u64 = 8;

/// An opened file whose header was checked against its length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl TensorFile {
    /// Opens a file and checks that it is whole.
    ///
    /// # Errors
    /// It cannot be read, is not in the format, or is shorter or longer than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| EngineError::Content {
            path: path.to_owned(),
            reason,
        };
        let mut file = File::open(path).map_err(EngineError::io("open", path))?;
        let length = file.metadata().map_err(EngineError::io("read", path))?.len();
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix)
            .map_err(|_| wrong("truncated: it ends before its header".into()))?;
        let header = u64::from_le_bytes(prefix);
        if header > length.saturating_sub(PREFIX) {
            return Err(wrong("truncated or not a safetensors file: it ends within its header".into()));
        }
        let mut buffer = vec![0; header as usize];
        file.read_exact(&mut buffer).map_err(EngineError::io("read", path))?;
        // Reading the header checks that the tensors lie one behind the other and fill their bytes.
        let metadata: Metadata = serde_json::from_slice(&buffer).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
        let data_start = PREFIX + header;
        let expected = data_start + metadata.data_len() as u64;
        if length != expected {
            let what = if length < expected { "truncated" } else { "too long" };
            return Err(wrong(format!("{what}: {length} bytes, the header promises {expected}")));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            data_start,
            metadata,
        })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of its tensors, by name.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.shape.clone()))
            .collect()
    }

    /// Reads a tensor, or the slice `shard` of it, in the file's own kind.
    ///
    /// # Errors
    /// It is not there, cannot be read, or has a kind that libtorch lacks.
    pub fn read(&self, name: &str, shard: Option<Shard>) -> Result<Tensor> {
        let wrong = |reason: String| EngineError::Content {
            path: self.path.clone(),
            reason,
        };
        let info = self.metadata.info(name).ok_or_else(|| wrong(format!("holds no tensor `{name}`")))?;
        let kind = kind_of(info.dtype).ok_or_else(|| wrong(format!("`{name}` is {:?}, which is not supported", info.dtype)))?;
        let (mut start, mut end) = info.data_offsets;
        let mut shape = info.shape.clone();
        // Leading slices lie in one piece; others are cut out of the whole.
        if let Some(shard) = shard.filter(|shard| shard.dim == 0) {
            let row = (end - start) / shape[0].max(1);
            (start, end) = (start + shard.start * row, start + (shard.start + shard.len) * row);
            shape[0] = shard.len;
        }
        let mut bytes = vec![0; end - start];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(EngineError::io("read", &self.path))?;
        let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        let tensor = Tensor::f_from_data_size(&bytes, &shape, kind)?;
        Ok(match shard.filter(|shard| shard.dim > 0) {
            Some(shard) => tensor.narrow(shard.dim as i64, shard.start as i64, shard.len as i64).contiguous(),
            None => tensor,
        })
    }
}

/// Writes tensors (on any device) to `path`, which appears only when it is complete and on disk.
///
/// # Errors
/// The disk is full, or the folder cannot be written.
pub fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let aside = path.with_extension("writing");
    let views = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, Bytes::new(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    // The crate makes files that only their owner can read; a checkpoint is as readable as any other file.
    let permissions = File::create(&aside)
        .and_then(|file| file.metadata())
        .map_err(EngineError::io("write", path))?
        .permissions();
    let written = safetensors::serialize_to_file(views, None, &aside)
        .map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => EngineError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            },
            other => EngineError::Content {
                path: path.to_owned(),
                reason: other.to_string(),
            },
        })
        .and_then(|()| {
            File::open(&aside)
                .and_then(|file| file.sync_all())
                .map_err(EngineError::io("write", path))
        })
        .and_then(|()| std::fs::set_permissions(&aside, permissions).map_err(EngineError::io("write", path)))
        .and_then(|()| std::fs::rename(&aside, path).map_err(EngineError::io("write", path)));
    if written.is_err() {
        // Nothing is left behind; the first error is the one to report.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// A tensor's bytes, copied to the host only while they are written.
struct Bytes {
    tensor: Tensor,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl Bytes {
    fn new(tensor: Tensor) -> Result<Self> {
        let shape = tensor.size().iter().map(|size| *size as usize).collect();
        let dtype =
            dtype_of(tensor.kind()).ok_or_else(|| EngineError::Bug(format!("a tensor of kind {:?} cannot be saved", tensor.kind())))?;
        Ok(Self {
            tensor: tensor.detach(),
            shape,
            dtype,
        })
    }
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self
            .tensor
            .to_device(tch::Device::Cpu)
            .contiguous()
            .flatten(0, -1)
            .view_dtype(Kind::Uint8);
        let mut buffer = vec![0; self.data_len()];
        bytes.copy_data_u8(&mut buffer, self.data_len());
        Cow::Owned(buffer)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(candidate, _)| *candidate == dtype).map(|(_, kind)| *kind)
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, candidate)| *candidate == kind).map(|(dtype, _)| *dtype)
}

const KINDS: &[(Dtype, Kind)] = &[
    (Dtype::F32, Kind::Float),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F16, Kind::Half),
    (Dtype::F64, Kind::Double),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];
