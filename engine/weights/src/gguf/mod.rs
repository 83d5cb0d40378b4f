//! GGUF, versions 2 and 3: a header with metadata and tensors, then the tensors' values.

mod metadata;

use std::collections::BTreeSet;

use safetensors::Dtype;

pub use self::metadata::{Metadata, MetadataValue};
use crate::{
    blocks::Blocks,
    error::Result,
    source::{AGAIN, Reader, Source},
    tensor::{Place, StoredTensor, TensorInfo, numel, sizes},
};

/// First bytes of a file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of the values, unless the metadata have another one.
const ALIGNMENT: u64 = 32;
/// Least sizes in bytes of an entry of the metadata and of a tensor in the header.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Maximum number of dims of a tensor in the format.
const MOST_DIMS: u32 = 4;

/// Reads the header, and checks that each tensor is within the file.
pub(crate) fn read(source: &Source) -> Result<(Metadata, Vec<StoredTensor>)> {
    let wrong = |reason: String| source.wrong(reason, AGAIN);
    let mut input = source.reader(0, source.len);
    input.array::<4>()?;
    let version = u32::from_le_bytes(input.array()?);
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => {
            return Err(source.wrong("a GGUF file with big-endian values", "only little-endian files are read"));
        }
        _ => {
            return Err(source.wrong(
                format!("GGUF version {version}; versions 2 and 3 are read"),
                "convert it with a newer llama.cpp",
            ));
        }
    }
    let (tensors, entries) = (u64::from_le_bytes(input.array()?), u64::from_le_bytes(input.array()?));
    if tensors > source.len / LEAST_TENSOR || entries > source.len / LEAST_ENTRY {
        return Err(wrong(format!(
            "its header promises {tensors} tensors and {entries} entries of metadata, more than its {} bytes can hold",
            source.len
        )));
    }
    let metadata = Metadata::read(&mut input, entries)?;
    let alignment = metadata
        .integer("general.alignment")
        .map_or(Some(ALIGNMENT), |alignment| u64::try_from(alignment).ok());
    let alignment = alignment.filter(|alignment| alignment.is_power_of_two() && *alignment <= 1 << 20);
    let alignment = alignment.ok_or_else(|| wrong("its alignment is not a power of two".to_owned()))?;
    let headers = (0..tensors).map(|_| Header::read(&mut input)).collect::<Result<Vec<_>>>()?;
    let start = input.at.next_multiple_of(alignment);
    let mut names = BTreeSet::new();
    let stored = headers.into_iter().map(|header| {
        if !names.insert(header.name.clone()) {
            return Err(wrong(format!("its header has two tensors `{}`", header.name)));
        }
        header.place(source, start, alignment)
    });
    let stored = stored.collect::<Result<Vec<_>>>()?;
    no_overlap(source, &stored)?;
    Ok((metadata, stored))
}

/// A tensor in the header.
struct Header {
    name: String,
    /// Sizes, the innermost first.
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Header {
    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let name = metadata::text(input)?;
        let dims = u32::from_le_bytes(input.array()?);
        if dims > MOST_DIMS {
            return Err(input
                .source
                .wrong(format!("`{name}` has {dims} dims, at most {MOST_DIMS} are possible"), AGAIN));
        }
        let sizes = (0..dims)
            .map(|_| input.array().map(u64::from_le_bytes))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            name,
            sizes,
            kind: u32::from_le_bytes(input.array()?),
            offset: u64::from_le_bytes(input.array()?),
        })
    }

    /// Finds the values of the tensor behind `start`.
    fn place(self, source: &Source, start: u64, alignment: u64) -> Result<StoredTensor> {
        let Self {
            name,
            sizes: dims,
            kind,
            offset,
        } = self;
        let wrong = |reason: String| source.wrong(format!("`{name}` {reason}"), AGAIN);
        let plain = match kind {
            0 => Some(Dtype::F32),
            1 => Some(Dtype::F16),
            24 => Some(Dtype::I8),
            25 => Some(Dtype::I16),
            26 => Some(Dtype::I32),
            27 => Some(Dtype::I64),
            28 => Some(Dtype::F64),
            30 => Some(Dtype::BF16),
            _ => None,
        };
        let blocks = Blocks::of_type(kind);
        if plain.is_none() && blocks.is_none() {
            return Err(source.wrong(
                format!(
                    "`{name}` has the type {}, which is not read: readable are F32, F16, BF16 and {}",
                    Blocks::name_of_type(kind),
                    Blocks::names()
                ),
                "use the F16, Q8_0 or Q4_0 file of the model",
            ));
        }
        let count = numel(&dims);
        let shape = sizes(&dims).map(|sizes| sizes.into_iter().rev().collect::<Vec<_>>());
        let (Some(count), Some(shape)) = (count, shape) else {
            return Err(wrong(format!("has the sizes {dims:?}, which are too large")));
        };
        let bytes = match (plain, blocks) {
            (Some(dtype), _) => count.checked_mul(dtype.bitsize() as u64 / 8),
            (None, Some(blocks)) => {
                let row = dims.first().copied().unwrap_or_default();
                if row % blocks.values() as u64 != 0 {
                    let (name, values) = (blocks.name(), blocks.values());
                    return Err(wrong(format!("has rows of {row} values, but {name} has blocks of {values}")));
                }
                (count / blocks.values() as u64).checked_mul(blocks.bytes() as u64)
            }
            (None, None) => None,
        };
        if offset % alignment != 0 {
            return Err(wrong(format!("begins at {offset}, which is not a multiple of {alignment}")));
        }
        let begin = start.checked_add(offset);
        let range = begin.zip(bytes).and_then(|(begin, bytes)| Some(begin..begin.checked_add(bytes)?));
        let range = range.filter(|range| range.end <= source.len);
        let range = range.ok_or_else(|| {
            let bytes = bytes.unwrap_or(u64::MAX);
            source.truncated(&format!(
                "`{name}` has {bytes} bytes at {start} + {offset}, but the file has {}",
                source.len
            ))
        })?;
        let dtype = plain.unwrap_or(Dtype::F32);
        let place = match blocks {
            Some(blocks) => Place::Blocks { range, blocks },
            None => Place::Range(range),
        };
        let info = TensorInfo { name, dtype, shape };
        Ok(StoredTensor { info, place })
    }
}

fn no_overlap(source: &Source, tensors: &[StoredTensor]) -> Result<()> {
    let mut ranges: Vec<_> = tensors
        .iter()
        .filter_map(|tensor| match &tensor.place {
            Place::Range(range) | Place::Blocks { range, .. } => Some((range.clone(), &tensor.info.name)),
            Place::Strided { .. } => None,
        })
        .filter(|(range, _)| !range.is_empty())
        .collect();
    ranges.sort_by_key(|(range, _)| range.start);
    for pair in ranges.windows(2) {
        let [(first, one), (second, two)] = pair else { continue };
        if second.start < first.end {
            return Err(source.wrong(format!("`{one}` and `{two}` overlap"), AGAIN));
        }
    }
    Ok(())
}
