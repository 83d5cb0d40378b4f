//! PyTorch's pickles, `.bin`, `.pt` and `.pth`, of `torch.save`: an archive with a pickle and a file for each storage, or
//! the older form, several pickles followed by the storages.
//!
//! A pickle is a program. This reader interprets it with values of its own and runs nothing: a name of a function or a
//! class is looked up in the list of [`globals`], and any other one is an error that names it.

mod containers;
mod globals;
mod legacy;
mod machine;
mod opcode;
mod rebuild;
mod scalars;
mod state_dict;
mod value;

use std::{collections::BTreeMap, ops::Range};

use crate::{
    error::Result,
    source::{AGAIN, Source},
    tensor::StoredTensor,
    zip,
};
use machine::Machine;
use state_dict::Storages;

pub(crate) use legacy::is_legacy;

/// Maximum size of a pickle in bytes, without its storages.
const LONGEST: u64 = 256 << 20;
/// Advice for a pickle that is not read.
const USE_SAFETENSORS: &str = "only tensors are read: save the model's state_dict() with torch.save, or as safetensors";

/// Reads the tensors of an archive.
pub(crate) fn read_archive(source: &Source) -> Result<Vec<StoredTensor>> {
    let entries = zip::entries(source)?;
    let pickles: Vec<_> = entries.iter().filter(|(name, _)| name.ends_with("data.pkl")).collect();
    let [(name, range)] = pickles[..] else {
        return Err(source.wrong(
            format!("it is a zip archive with {} pickles, but torch.save writes one", pickles.len()),
            USE_SAFETENSORS,
        ));
    };
    let prefix = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some(order) = entries.get(&format!("{prefix}byteorder")) {
        let order = source.read(order.start, (order.end - order.start).min(16))?;
        if order != b"little" {
            let order = String::from_utf8_lossy(&order).into_owned();
            return Err(source.wrong(
                format!("its values have the byte order {order:?}, only \"little\" is read"),
                USE_SAFETENSORS,
            ));
        }
    }
    if range.end - range.start > LONGEST {
        return Err(source.wrong(format!("its pickle has more than {LONGEST} bytes"), USE_SAFETENSORS));
    }
    let mut machine = Machine::new(source.reader(range.start, range.end));
    let top = machine.run()?;
    let data = format!("{prefix}data/");
    let storages: BTreeMap<String, Range<u64>> = entries
        .iter()
        .filter_map(|(name, range)| Some((name.strip_prefix(&data)?.to_owned(), range.clone())))
        .collect();
    state_dict::tensors(source, &machine, top, &Storages { ranges: storages })
}

/// Reads the tensors of the older form.
pub(crate) fn read_legacy(source: &Source) -> Result<Vec<StoredTensor>> {
    let (machine, top, ranges) = legacy::read(source)?;
    state_dict::tensors(source, &machine, top, &Storages { ranges })
}

/// Returns the error of a damaged pickle.
fn damaged(source: &Source, reason: impl std::fmt::Display) -> crate::WeightsError {
    source.wrong(format!("not a valid pickle: {reason}"), AGAIN)
}
