//! Values of a pickle. Containers are in an arena: values refer to them by index, so that no depth of a pickle is a depth of
//! our stack.

use std::{collections::BTreeMap, rc::Rc};

use safetensors::Dtype;

use super::globals::Global;

/// Maximum number of containers and of values in them.
const MOST: usize = 16 << 20;

/// A value. Copies share the container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: its bytes, little-endian.
    Long(Rc<[u8]>),
    Float(f64),
    Text(Rc<str>),
    Bytes(Rc<[u8]>),
    Global(Global),
    /// A list, tuple or set.
    Sequence(usize),
    Dict(usize),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
}

/// A storage, the memory of one or several tensors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// Kind of its values; `None` for bytes, whose kind each tensor says.
    pub(super) dtype: Option<Dtype>,
    /// Number of values.
    pub(super) numel: u64,
    /// First value in the storage `key`, where it is a part of it.
    pub(super) offset: u64,
}

/// A tensor in a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) storage: Rc<Storage>,
    pub(super) dtype: Dtype,
    /// First value.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// Entries of a dict, in their order.
pub(super) type Entries = Vec<(Value, Value)>;

/// Containers of a pickle.
#[derive(Debug, Default)]
pub(super) struct Arena {
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Entries>,
    memo: BTreeMap<u64, Value>,
    values: usize,
}

impl Arena {
    /// Counts new values. Returns false beyond the limit.
    fn count(&mut self, values: usize) -> Option<()> {
        self.values += values;
        (self.values < MOST).then_some(())
    }

    pub(super) fn sequence(&mut self, items: Vec<Value>) -> Option<Value> {
        self.count(items.len() + 1)?;
        self.sequences.push(items);
        Some(Value::Sequence(self.sequences.len() - 1))
    }

    pub(super) fn dict(&mut self, entries: Entries) -> Option<Value> {
        self.count(entries.len() + 1)?;
        self.dicts.push(entries);
        Some(Value::Dict(self.dicts.len() - 1))
    }

    pub(super) fn extend(&mut self, list: usize, items: Vec<Value>) -> Option<()> {
        self.count(items.len())?;
        self.sequences.get_mut(list)?.extend(items);
        Some(())
    }

    pub(super) fn insert(&mut self, dict: usize, entries: Entries) -> Option<()> {
        self.count(entries.len())?;
        self.dicts.get_mut(dict)?.extend(entries);
        Some(())
    }

    pub(super) fn remember(&mut self, key: u64, value: Value) -> Option<()> {
        self.count(1)?;
        self.memo.insert(key, value);
        Some(())
    }

    pub(super) fn remember_next(&mut self, value: Value) -> Option<()> {
        self.remember(self.memo.len() as u64, value)
    }

    pub(super) fn forget(&mut self) {
        self.memo.clear();
    }

    pub(super) fn recall(&self, key: u64) -> Option<Value> {
        self.memo.get(&key).cloned()
    }

    /// Returns the items of a list or tuple.
    pub(super) fn items(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Sequence(index) => self.sequences.get(*index).map(Vec::as_slice),
            _ => None,
        }
    }

    /// Returns the entries of a dict.
    pub(super) fn entries(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Dict(index) => self.dicts.get(*index).map(Vec::as_slice),
            _ => None,
        }
    }

    /// Returns the sizes in a tuple.
    pub(super) fn sizes(&self, value: &Value) -> Option<Vec<u64>> {
        self.items(value)?.iter().map(Value::size).collect()
    }
}

impl Value {
    /// Returns a size.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Returns a text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the type in Python's words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Long(_) => "an int",
            Self::Float(_) => "a float",
            Self::Text(_) => "a str",
            Self::Bytes(_) => "bytes",
            Self::Global(_) => "a class or function",
            Self::Sequence(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}
