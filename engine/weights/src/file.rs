//! A file of weights of any format.

use std::{ops::Range, path::Path};

use crate::{
    blocks::Blocks,
    error::Result,
    gguf::{self, Metadata},
    pickle, safetensors_header,
    source::Source,
    tensor::{Place, StoredTensor},
    zip,
};

/// Size of the read buffer in bytes.
const BUFFER: u64 = 4 << 20;
/// First line of a file that git-lfs has in place of the content.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `*.safetensors`.
    Safetensors,
    /// PyTorch's `*.bin`, `*.pt` and `*.pth`.
    Pickle,
    /// `*.gguf`.
    Gguf,
}

/// An open file of weights, whose header was checked against its size.
#[derive(Debug)]
pub struct WeightFile {
    source: Source,
    format: Format,
    tensors: Vec<StoredTensor>,
    metadata: Metadata,
}

/// Opens a file of PyTorch's `torch.save`, and nothing else. Nothing in it is executed.
///
/// # Errors
/// As [`WeightFile::open`]; the file is no pickle.
pub fn read_pickle(path: &Path) -> Result<WeightFile> {
    let file = WeightFile::open(path)?;
    match file.format {
        Format::Pickle => Ok(file),
        _ => Err(file.source.wrong("not a file of torch.save", "")),
    }
}

impl WeightFile {
    /// Opens a file and checks its header. The content says its format, not the name.
    ///
    /// # Errors
    /// The file cannot be read, has another format, is not whole, or a pickle asks for more than tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let start = source.read(0, source.len.min(64))?;
        if start.starts_with(LFS) {
            return Err(source.wrong(
                "a pointer of git-lfs in place of the file",
                "download the files of the repository: git lfs pull",
            ));
        }
        let (format, tensors, metadata) = if start.starts_with(gguf::MAGIC) {
            let (metadata, tensors) = gguf::read(&source)?;
            (Format::Gguf, tensors, metadata)
        } else if start.starts_with(zip::LOCAL) {
            (Format::Pickle, pickle::read_archive(&source)?, Metadata::default())
        } else if pickle::is_legacy(&start) {
            (Format::Pickle, pickle::read_legacy(&source)?, Metadata::default())
        } else if is_bare_pickle(&start) {
            return Err(source.wrong(
                "a pickle that is not from torch.save",
                "save the model's state_dict() with torch.save, or as safetensors",
            ));
        } else {
            (Format::Safetensors, safetensors_header::read(&source)?, Metadata::default())
        };
        Ok(Self {
            source,
            format,
            tensors,
            metadata,
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Returns the format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the size of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.source.len
    }

    /// Returns the tensors of the file.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Returns the tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.iter().find(|tensor| tensor.info.name == name)
    }

    /// Returns the metadata of a GGUF file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Passes the bytes of a tensor to `sink`, in order and in parts of some MiB.
    ///
    /// # Errors
    /// The file cannot be read, or `sink` fails.
    pub fn stream(&self, tensor: &StoredTensor, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match &tensor.place {
            Place::Range(range) => self.chunks(range, BUFFER, sink),
            Place::Strided { span, strides } => {
                let span = self.source.read(span.start, span.end - span.start)?;
                let size = tensor.info.dtype.bitsize() / 8;
                sink(&gathered(&span, &tensor.info.shape, strides, size))
            }
            Place::Blocks { range, blocks } => self.dequantized(range, *blocks, sink),
        }
    }

    /// Reads a whole tensor in its kind, little-endian.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, tensor: &StoredTensor) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(tensor.info.len_bytes()).unwrap_or_default());
        self.stream(tensor, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads a whole tensor of numbers as fp32.
    ///
    /// # Errors
    /// The file cannot be read, or the tensor has another kind than F32, F16 and BF16.
    pub fn read_f32(&self, tensor: &StoredTensor) -> Result<Vec<f32>> {
        let bytes = self.read(tensor)?;
        crate::values::to_f32(tensor.info.dtype, &bytes).ok_or_else(|| {
            let (name, dtype) = (&tensor.info.name, tensor.info.dtype);
            self.source
                .wrong(format!("`{name}` has the kind {dtype}, readable are F32, F16 and BF16"), "")
        })
    }

    fn chunks(&self, range: &Range<u64>, size: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(size.min(range.end - range.start)).unwrap_or_default()];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
            self.source.read_exact(&mut buffer[..len], at)?;
            sink(&buffer[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    fn dequantized(&self, range: &Range<u64>, blocks: Blocks, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let block = blocks.bytes() as u64;
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        self.chunks(range, BUFFER / 4 / block * block, &mut |quants| {
            values.clear();
            blocks.dequantize(quants, &mut values);
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            sink(&bytes)
        })
    }
}

/// Returns whether a file begins as a pickle. The length of a safetensors header may begin with the same bytes, but the header
/// follows it.
fn is_bare_pickle(start: &[u8]) -> bool {
    matches!(start, [0x80, 2..=5, ..]) && start.get(8) != Some(&b'{')
}

/// Returns the values at the strides of a shape, in order.
fn gathered(span: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(index, stride)| index * stride).sum();
        bytes.extend_from_slice(&span[at * size..(at + 1) * size]);
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            if index[dim] < shape[dim] {
                break;
            }
            index[dim] = 0;
        }
    }
    bytes
}
