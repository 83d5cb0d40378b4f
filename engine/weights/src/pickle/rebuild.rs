//! What the functions in a pickle of tensors do: make storages and tensors from their arguments.

use std::rc::Rc;

use super::{
    globals::Global,
    value::{Arena, Storage, Tensor, Value},
};

/// "Calls" a global of the list.
pub(super) fn call(arena: &mut Arena, global: Global, arguments: &[Value]) -> Result<Value, String> {
    let many = || "it has too many values".to_owned();
    match (global, arguments) {
        (Global::OrderedDict, []) => arena.dict(Vec::new()).ok_or_else(many),
        (Global::OrderedDict, [pairs]) => {
            let pairs = arena.items(pairs).ok_or("an OrderedDict is made of another value than a list")?;
            let entry = |pair: &Value| match arena.items(pair) {
                Some([key, value]) => Ok((key.clone(), value.clone())),
                _ => Err("an OrderedDict is made of other values than pairs".to_owned()),
            };
            let entries = pairs.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            arena.dict(entries).ok_or_else(many)
        }
        (Global::Sequence, []) => arena.sequence(Vec::new()).ok_or_else(many),
        (Global::Sequence, [items]) => {
            let items = arena
                .items(items)
                .ok_or("a sequence is made of another value than a list")?
                .to_vec();
            arena.sequence(items).ok_or_else(many)
        }
        (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => tensor(arena, storage, [offset, shape, strides], None),
        (Global::RebuildTypedTensor, [storage, offset, shape, strides, _, _, dtype, ..]) => {
            tensor(arena, storage, [offset, shape, strides], Some(dtype))
        }
        (Global::RebuildParameter, [data, ..]) => match data {
            Value::Tensor(_) => Ok(data.clone()),
            other => Err(format!("a parameter is {}", other.kind())),
        },
        (Global::RebuildFromType, [Value::Global(function), _, arguments, ..])
            if matches!(
                function,
                Global::RebuildTensor | Global::RebuildTypedTensor | Global::RebuildParameter
            ) =>
        {
            let arguments = arena.items(arguments).ok_or("arguments are not a tuple")?.to_vec();
            call(arena, *function, &arguments)
        }
        // A device, or a storage of its own: no tensor of a file needs the value.
        (Global::Type, _) => Ok(Value::None),
        (other, arguments) => Err(format!("{other:?} has {} arguments that are not those of PyTorch", arguments.len())),
    }
}

/// Makes a storage from its id, a tuple `('storage', class, key, location, number of values[, view])`.
pub(super) fn storage(arena: &Arena, id: &Value) -> Result<Rc<Storage>, String> {
    let items = arena.items(id).unwrap_or_default();
    let [Value::Text(kind), Value::Global(Global::Storage(dtype)), key, _, count, rest @ ..] = items else {
        return Err("it refers to an object outside of it that is no storage".to_owned());
    };
    let key = match key {
        Value::Text(key) => key.to_string(),
        Value::Int(key) => key.to_string(),
        other => return Err(format!("the key of a storage is {}", other.kind())),
    };
    let count = count.size().filter(|_| **kind == *"storage");
    let mut storage = Storage {
        key,
        dtype: *dtype,
        numel: count.ok_or("a storage has no size")?,
        offset: 0,
    };
    // In the older form, a storage may be a part of another one.
    if let Some([_, offset, size]) = rest.first().and_then(|view| arena.items(view)) {
        storage.offset = offset.size().ok_or("a part of a storage has no offset")?;
        storage.numel = size.size().ok_or("a part of a storage has no size")?;
    }
    Ok(Rc::new(storage))
}

fn tensor(arena: &Arena, storage: &Value, [offset, shape, strides]: [&Value; 3], dtype: Option<&Value>) -> Result<Value, String> {
    let Value::Storage(storage) = storage else {
        return Err(format!("a tensor is made of {}", storage.kind()));
    };
    let dtype = match dtype {
        Some(Value::Global(Global::Dtype(dtype))) => Some(*dtype),
        Some(_) => None,
        None => storage.dtype,
    };
    let dtype = dtype.ok_or("a tensor has no kind")?;
    let shape = arena.sizes(shape).ok_or("the shape of a tensor is not a tuple of sizes")?;
    let strides = arena.sizes(strides).ok_or("the strides of a tensor are not a tuple of sizes")?;
    if shape.len() != strides.len() || shape.len() > 16 {
        return Err(format!("a tensor has {} sizes and {} strides", shape.len(), strides.len()));
    }
    Ok(Value::Tensor(Rc::new(Tensor {
        storage: Rc::clone(storage),
        dtype,
        offset: offset.size().ok_or("the offset of a tensor is not a size")?,
        shape,
        strides,
    })))
}
