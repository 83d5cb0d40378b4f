//! Reads rectangles of tensors from a safetensors file.

use super::extent::Extent;
use crate::error::{EngineError, Result};
use neva_layout::{Shard, Window};
use safetensors::tensor::{Dtype, Metadata};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Bytes of the header's length, in front of the header.
const PREFIX: u64 = 8;

thread_local! {
    static BYTES_READ: Cell<u64> = const { Cell::new(0) };
}

/// Returns the bytes of tensors that this thread has read from files.
pub fn bytes_read() -> u64 {
    BYTES_READ.get()
}

/// An opened file whose header was checked against its length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: Arc<File>,
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
        // Parsing the header checks that the tensors are contiguous and match their sizes.
        let metadata: Metadata = serde_json::from_slice(&buffer).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
        let data_start = PREFIX + header;
        let expected = data_start + metadata.data_len() as u64;
        if length != expected {
            let what = if length < expected { "truncated" } else { "too long" };
            return Err(wrong(format!("{what}: {length} bytes, the header promises {expected}")));
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            data_start,
            metadata,
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the shapes of its tensors, by name.
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
        let mut shape = self.shape(name)?.to_vec();
        let mut window = Window::whole(&shape);
        if let Some(Shard { dim, start, len, .. }) = shard {
            // A slice of the first two dims is a rectangle.
            let inner: usize = shape.iter().skip(2).product();
            match dim {
                0 => window.rows = start..start + len,
                1 => window.columns = start * inner..(start + len) * inner,
                _ => return Err(EngineError::Bug(format!("dim {dim} of `{name}` is cut"))),
            }
            shape[dim] = len;
        }
        let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
        Ok(self.read_window(name, &window)?.f_view(shape.as_slice())?)
    }

    /// Reads a rectangle `[rows, columns]` of a tensor viewed as a matrix, in the file's own kind, and no other byte.
    /// Several threads may read at once.
    ///
    /// # Errors
    /// The tensor is not there, does not hold the rectangle, cannot be read, or has a kind that libtorch lacks.
    pub fn read_window(&self, name: &str, window: &Window) -> Result<Tensor> {
        let whole = Window::whole(self.shape(name)?);
        let info = self.metadata.info(name).ok_or_else(|| self.lacks(name))?;
        let kind = kind_of(info.dtype).ok_or_else(|| self.wrong(format!("`{name}` is {:?}, which is not supported", info.dtype)))?;
        if window.rows.end > whole.rows.end || window.columns.end > whole.columns.end {
            return Err(self.wrong(format!("`{name}` has shape {:?}, {window:?} is not within it", info.shape)));
        }
        let size = kind.elt_size_in_bytes();
        let mut bytes = vec![0; window.numel() * size];
        let first = self.data_start + info.data_offsets.0 as u64;
        let at = |row: usize, column: usize| first + ((row * whole.columns.len() + column) * size) as u64;
        let Window { rows, columns } = window;
        let mut read = || match columns.len() {
            0 => Ok(()),
            // Whole rows are contiguous.
            width if width == whole.columns.len() => self.file.read_exact_at(&mut bytes, at(rows.start, 0)),
            width => {
                let mut lines = rows.clone().zip(bytes.chunks_exact_mut(width * size));
                lines.try_for_each(|(row, line)| self.file.read_exact_at(line, at(row, columns.start)))
            }
        };
        read().map_err(EngineError::io("read", &self.path))?;
        BYTES_READ.set(BYTES_READ.get() + (window.numel() * size) as u64);
        let shape = window.shape().map(|size| size as i64);
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
    }

    /// Returns where a tensor of floating-point values lies in the file.
    pub(crate) fn extent(&self, name: &str) -> Option<Extent> {
        let info = self.metadata.info(name)?;
        let kind = kind_of(info.dtype).filter(|kind| matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half))?;
        let (start, end) = info.data_offsets;
        Some(Extent {
            path: self.path.clone(),
            file: self.file.clone(),
            first: self.data_start + start as u64,
            bytes: (end - start) as u64,
            kind,
            shape: info.shape.clone(),
        })
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        self.metadata
            .info(name)
            .map(|info| info.shape.as_slice())
            .ok_or_else(|| self.lacks(name))
    }

    fn lacks(&self, name: &str) -> EngineError {
        self.wrong(format!("holds no tensor `{name}`"))
    }

    fn wrong(&self, reason: String) -> EngineError {
        EngineError::Content {
            path: self.path.clone(),
            reason,
        }
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(candidate, _)| *candidate == dtype).map(|(_, kind)| *kind)
}

/// Data types of safetensors and their kinds in libtorch.
pub(super) const KINDS: &[(Dtype, Kind)] = &[
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
