//! The form of `torch.save` before PyTorch 1.6: pickles of a magic number, a version, the machine, the object and the keys
//! of its storages; then each storage, a number of values and the values.

use std::{collections::BTreeMap, ops::Range};

use super::{
    LONGEST, USE_SAFETENSORS, damaged,
    machine::Machine,
    value::{Storage, Value},
};
use crate::{error::Result, source::Source};

/// The magic number as a pickle: protocol 2, an integer of 10 bytes.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const VERSION: Value = Value::Int(1001);

/// Returns whether a file begins as one of the older form.
pub(crate) fn is_legacy(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// A file's machine, its object, and the bytes of its storages by key.
pub(super) type Read<'a> = (Machine<'a>, Value, BTreeMap<String, Range<u64>>);

/// Reads the pickles, and finds the storages behind them.
pub(super) fn read(source: &Source) -> Result<Read<'_>> {
    let mut machine = Machine::new(source.reader(0, source.len.min(LONGEST)));
    machine.run()?;
    machine.forget();
    if machine.run()? != VERSION {
        return Err(source.wrong("its version of torch.save is not 1001", USE_SAFETENSORS));
    }
    machine.forget();
    machine.run()?;
    machine.forget();
    let top = machine.run()?;
    machine.forget();
    let keys = machine.run()?;
    let declared = storages(&machine)?;
    let keys = machine
        .arena
        .items(&keys)
        .ok_or_else(|| damaged(source, "the keys of the storages are not a list"))?;
    let (mut at, mut ranges) = (machine.input.at, BTreeMap::new());
    for key in keys {
        let key = match key {
            Value::Text(key) => key.to_string(),
            Value::Int(key) => key.to_string(),
            other => return Err(damaged(source, format!("the key of a storage is {}", other.kind()))),
        };
        let count = source.read(at, 8)?;
        let count = count.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let size = declared.get(&key).copied();
        let size = size.ok_or_else(|| damaged(source, format!("the storage {key:?} belongs to no tensor")))?;
        let end = count.checked_mul(size).and_then(|bytes| (at + 8).checked_add(bytes));
        let end = end.filter(|end| *end <= source.len);
        let end = end.ok_or_else(|| source.truncated(&format!("the storage {key:?} is beyond the end of the file")))?;
        if ranges.insert(key, at + 8..end).is_some() {
            return Err(damaged(source, "two storages have one key"));
        }
        at = end;
    }
    Ok((machine, top, ranges))
}

/// Returns the size of a value of each storage.
fn storages(machine: &Machine<'_>) -> Result<BTreeMap<String, u64>> {
    let size = |storage: &Storage| storage.dtype.map_or(1, |dtype| dtype.bitsize() as u64 / 8);
    Ok(machine
        .storages
        .iter()
        .map(|storage| (storage.key.clone(), size(storage)))
        .collect())
}
