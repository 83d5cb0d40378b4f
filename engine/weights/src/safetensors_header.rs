//! Header of a safetensors file.

use std::{collections::BTreeSet, fmt};

use safetensors::Dtype;
use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    error::Result,
    source::{AGAIN, Source},
    tensor::{Place, StoredTensor, TensorInfo, numel, sizes},
};

/// Bytes before the header, which hold its length.
const PREFIX: u64 = 8;
/// Maximum length of a header in the format.
const LONGEST: u64 = 100_000_000;
/// First byte of a header.
const OPENING: &[u8] = b"{";
/// Problem of a file in none of the formats.
const NO_WEIGHTS: &str = "not a file of weights: neither safetensors nor GGUF, nor from torch.save";
/// Advice for such a file.
const WEIGHTS: &str = "name the folder with config.json and the weights, or the file of weights; download it again if this should be one";
/// Entry of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// Reads the header, and checks that its tensors fill the file without a gap or an overlap.
pub(crate) fn read(source: &Source) -> Result<Vec<StoredTensor>> {
    let wrong = |reason: String| source.wrong(reason, AGAIN);
    if source.len < PREFIX {
        return Err(match source.len {
            0 => source.truncated("it ends before its header"),
            _ => source.wrong(NO_WEIGHTS, WEIGHTS),
        });
    }
    let mut prefix = [0; PREFIX as usize];
    source.read_exact(&mut prefix, 0)?;
    let header = u64::from_le_bytes(prefix);
    if header > LONGEST.min(source.len - PREFIX) && !source.read(PREFIX, source.len.min(PREFIX + 1) - PREFIX)?.starts_with(OPENING) {
        return Err(source.wrong(NO_WEIGHTS, WEIGHTS));
    }
    if header > source.len - PREFIX {
        return Err(source.truncated("it ends within its header"));
    }
    if header > LONGEST {
        return Err(wrong(format!("its header has {header} bytes, but the limit is {LONGEST}")));
    }
    let text = source.read(PREFIX, header)?;
    let entries: Entries = serde_json::from_slice(&text).map_err(|error| wrong(format!("not a safetensors file: {error}")))?;
    let data = source.len - PREFIX - header;
    let mut names = BTreeSet::new();
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        if !names.insert(name.clone()) {
            return Err(wrong(format!("its header has two tensors `{name}`")));
        }
        let [start, end] = entry.data_offsets;
        let bits = numel(&entry.shape).and_then(|count| count.checked_mul(entry.dtype.bitsize() as u64));
        let (Some(bits), Some(shape)) = (bits, sizes(&entry.shape)) else {
            return Err(wrong(format!("`{name}` has the shape {:?}, which is too large", entry.shape)));
        };
        if start > end || end - start != bits.div_ceil(8) || bits % 8 != 0 {
            return Err(wrong(format!(
                "`{name}` has {} bytes by its shape {shape:?}, but the offsets {start} and {end}",
                bits.div_ceil(8)
            )));
        }
        let info = TensorInfo {
            name,
            dtype: entry.dtype,
            shape,
        };
        tensors.push((start, end, info));
    }
    tensors.sort_by_key(|(start, end, _)| (*start, *end));
    let mut filled = 0;
    for (start, end, TensorInfo { name, .. }) in &tensors {
        if *start < filled {
            return Err(wrong(format!(
                "`{name}` overlaps another tensor: it begins at {start}, below {filled}"
            )));
        }
        if *start > filled {
            return Err(wrong(format!("bytes {filled} to {start} in front of `{name}` belong to no tensor")));
        }
        filled = *end;
    }
    if data != filled {
        let what = if data < filled { "truncated" } else { "too long" };
        let expected = u128::from(PREFIX + header) + u128::from(filled);
        return Err(wrong(format!("{what}: {} bytes, but the header says {expected}", source.len)));
    }
    let base = PREFIX + header;
    let stored = tensors.into_iter().map(|(start, end, info)| StoredTensor {
        info,
        place: Place::Range(base + start..base + end),
    });
    Ok(stored.collect())
}

/// Entry of one tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Entries in their order, two of one name included.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Header)
    }
}
