//! Streams the tensors of an export: a thread reads and converts one group while another is written. Tensors that keep their
//! values and data type are copied from file to file.

use super::equal_extents::EqualExtents;
use super::shard_writer::ShardWriter;
use crate::checkpoint::Extent;
use crate::error::{EngineError, Result};
use crate::precision::compute_kind;
use neva_layout::ParamSpec;
use neva_schemas::{ExportDtype, Finetune};
use neva_weights::Unsynced;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use tch::{Kind, Tensor};

/// Most values of one group, which is 128 MiB in fp32. A larger tensor is a group of its own.
const GROUP: usize = 32 << 20;

/// A parameter and the name of its tensor in the export.
pub(super) type Named = (ParamSpec, String);

/// Returns the values of tensors.
pub(super) type Read<'a> = dyn Fn(&[Named]) -> Result<Vec<Tensor>> + Sync + 'a;

/// Returns where a tensor lies that is exported as it is.
pub(super) type Locate<'a> = dyn Fn(&ParamSpec) -> Option<Extent> + Sync + 'a;

/// The sources of the tensors of an export.
pub(super) struct Origin<'a> {
    /// Returns the values of those that are made.
    pub(super) read: &'a Read<'a>,
    /// Returns the places of those that are copied.
    pub(super) locate: &'a Locate<'a>,
    /// Receives the tensors that are equal to their sources.
    pub(super) equal: &'a EqualExtents,
}

/// Writes tensors to `STEM.safetensors` in `folder`, or to several files with an index. `kind` is their data type, or that of
/// their files. Returns the files, which may not be on disk yet.
///
/// # Errors
/// A tensor cannot be read or written, or has values beyond the range of `kind`.
pub(super) fn write(
    folder: &Path,
    stem: &'static str,
    max_bytes: u64,
    tensors: &[Named],
    kind: Option<Kind>,
    origin: &Origin<'_>,
) -> Result<Unsynced> {
    let Origin { read, locate, equal } = origin;
    let mut writer = ShardWriter::new(folder, stem, max_bytes, tensors.iter().map(|(_, name)| name.as_str()));
    let same = |(spec, _): &Named| locate(spec).filter(|extent| kind.is_none_or(|kind| kind == extent.kind));
    let (mut copied, mut made) = (Vec::new(), Vec::new());
    for tensor in tensors {
        match same(tensor) {
            Some(extent) => copied.push((&tensor.1, extent)),
            None => made.push(tensor.clone()),
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        let stop = &stop;
        scope.spawn(move || equal.compare(&receive, stop));
        let copy = || -> Result<()> {
            for (name, extent) in copied {
                let written = writer.copy(name, &extent)?;
                // The other end is there until the last tensor.
                let _ = send.send((name.clone(), extent, written));
            }
            Ok(())
        };
        let done = copy();
        drop(send);
        // The check compares what is left on several threads.
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    let groups = groups(&made);
    let load = |group: &[Named]| -> Result<Vec<Tensor>> {
        let loaded = read(group)?.into_iter().zip(group);
        loaded.map(|(tensor, (_, name))| convert(tensor, name, kind)).collect()
    };
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(1);
        scope.spawn(move || {
            for group in groups {
                let loaded = load(group);
                let failed = loaded.is_err();
                // A closed channel: the writer has failed.
                if send.send((group, loaded)).is_err() || failed {
                    break;
                }
            }
        });
        for (group, loaded) in receive {
            for ((_, name), tensor) in group.iter().zip(loaded?) {
                writer.add(name, &tensor)?;
            }
        }
        writer.finish()
    })
}

/// Splits tensors into consecutive groups.
fn groups(tensors: &[Named]) -> Vec<&[Named]> {
    let (mut groups, mut first, mut filled) = (Vec::new(), 0, 0);
    for (index, (spec, _)) in tensors.iter().enumerate() {
        if index > first && filled + spec.numel() > GROUP {
            groups.push(&tensors[first..index]);
            (first, filled) = (index, 0);
        }
        filled += spec.numel();
    }
    groups.extend((first < tensors.len()).then(|| &tensors[first..]));
    groups
}

fn convert(tensor: Tensor, name: &str, kind: Option<Kind>) -> Result<Tensor> {
    let tensor = tensor.detach();
    let Some(kind) = kind.filter(|kind| *kind != tensor.kind()) else {
        return Ok(tensor);
    };
    let converted = tensor.f_to_kind(kind)?;
    if kind == Kind::Half && converted.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(EngineError::Weights {
            path: "--dtype".into(),
            problems: vec![format!("`{name}` has values beyond the range of float16: use bfloat16")],
        });
    }
    Ok(converted)
}

/// Returns the kind of a data type.
pub(super) fn kind(dtype: ExportDtype) -> Kind {
    match dtype {
        ExportDtype::Float32 => Kind::Float,
        ExportDtype::Bfloat16 => Kind::BFloat16,
        ExportDtype::Float16 => Kind::Half,
    }
}

/// Returns the data type that a run computes in.
pub(super) fn computed(finetune: &Finetune) -> ExportDtype {
    match compute_kind(finetune.trainer.precision()) {
        Kind::BFloat16 => ExportDtype::Bfloat16,
        Kind::Half => ExportDtype::Float16,
        _ => ExportDtype::Float32,
    }
}
