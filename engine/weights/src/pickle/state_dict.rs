//! Tensors of an interpreted pickle, by name, with their places in the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    USE_SAFETENSORS, damaged,
    machine::Machine,
    value::{Arena, Tensor, Value},
};
use crate::{
    error::Result,
    source::Source,
    tensor::{Place, StoredTensor, TensorInfo, numel, sizes},
};

/// Keys of a training checkpoint below which its tensors are.
const INNER: &[&str] = &["state_dict", "model_state_dict", "model", "module"];

/// Bytes of the storages in the file, by key.
pub(super) struct Storages {
    pub(super) ranges: BTreeMap<String, Range<u64>>,
}

/// Returns the tensors of `top`, a dict from names to tensors.
pub(super) fn tensors(source: &Source, machine: &Machine<'_>, top: Value, storages: &Storages) -> Result<Vec<StoredTensor>> {
    let arena = &machine.arena;
    let entries = inner(arena, &top).ok_or_else(|| {
        let found = arena.entries(&top).map_or_else(|| top.kind().to_owned(), keys);
        source.wrong(format!("it holds no tensors by name, but {found}"), USE_SAFETENSORS)
    })?;
    let (mut tensors, mut names) = (Vec::new(), BTreeSet::new());
    for (key, value) in entries {
        let (Some(name), Value::Tensor(tensor)) = (key.text(), value) else {
            continue;
        };
        if !names.insert(name) {
            return Err(damaged(source, format!("two tensors have the name `{name}`")));
        }
        tensors.push(stored(source, name, tensor, storages)?);
    }
    Ok(tensors)
}

/// Returns the entries of the dict with the tensors: the one at the top, or one in it.
fn inner<'a>(arena: &'a Arena, top: &Value) -> Option<&'a [(Value, Value)]> {
    let has_tensors = |entries: &&[(Value, Value)]| entries.iter().any(|(_, value)| matches!(value, Value::Tensor(_)));
    let entries = arena.entries(top)?;
    let below = |name: &str| {
        let entry = entries.iter().find(|(key, _)| key.text() == Some(name))?;
        arena.entries(&entry.1)
    };
    Some(entries)
        .filter(has_tensors)
        .or_else(|| INNER.iter().filter_map(|name| below(name)).find(|entries| has_tensors(entries)))
}

fn keys(entries: &[(Value, Value)]) -> String {
    let keys: Vec<_> = entries.iter().filter_map(|(key, _)| key.text()).take(6).collect();
    format!("a dict of {}", if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") })
}

/// Finds the values of a tensor, which must be within its storage, and the storage within the file.
fn stored(source: &Source, name: &str, tensor: &Tensor, storages: &Storages) -> Result<StoredTensor> {
    let wrong = |reason: String| damaged(source, format!("`{name}` {reason}"));
    let storage = &tensor.storage;
    let range = storages.ranges.get(&storage.key);
    let range = range.ok_or_else(|| wrong(format!("is in the storage {:?}, which does not exist", storage.key)))?;
    let size = tensor.dtype.bitsize() as u64 / 8;
    if storage.dtype.is_some_and(|dtype| dtype != tensor.dtype) {
        return Err(wrong("has another kind than its storage".to_owned()));
    }
    // Values of the storage, by what it says and by what there is.
    let declared = if storage.dtype.is_some() {
        storage.numel
    } else {
        storage.numel / size
    };
    let held = (range.end - range.start) / size;
    if storage.offset.checked_add(declared).is_none_or(|end| end > held) {
        return Err(wrong(format!("needs a storage of {declared} values, but the file has {held}")));
    }
    let (Some(count), Some(shape)) = (numel(&tensor.shape), sizes(&tensor.shape)) else {
        return Err(wrong(format!("has the shape {:?}, which is too large", tensor.shape)));
    };
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |last, (size, stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
        });
    let last = last.filter(|last| *last < declared || count == 0);
    let last = last.ok_or_else(|| {
        let Tensor {
            shape, strides, offset, ..
        } = tensor;
        wrong(format!(
            "with shape {shape:?}, strides {strides:?} and offset {offset} is beyond its storage of {declared} values"
        ))
    })?;
    if count > declared {
        return Err(wrong(format!("repeats values: it has {count}, its storage {declared}")));
    }
    let base = range.start + storage.offset * size;
    let place = if count == 0 {
        Place::Range(base..base)
    } else if is_contiguous(tensor) {
        let start = base + tensor.offset * size;
        Place::Range(start..start + count * size)
    } else {
        let strides = sizes(&tensor.strides).ok_or_else(|| wrong("has strides that are too large".to_owned()))?;
        Place::Strided {
            span: base + tensor.offset * size..base + (last + 1) * size,
            strides,
        }
    };
    let info = TensorInfo {
        name: name.to_owned(),
        dtype: tensor.dtype,
        shape,
    };
    Ok(StoredTensor { info, place })
}

fn is_contiguous(tensor: &Tensor) -> bool {
    let mut expected = 1;
    let dims = tensor.shape.iter().zip(&tensor.strides).rev();
    dims.filter(|(size, _)| **size != 1).all(|(size, stride)| {
        let is = *stride == expected;
        expected *= size;
        is
    })
}
