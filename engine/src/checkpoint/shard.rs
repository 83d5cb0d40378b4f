//! A rank's shard of a checkpoint. If several ranks hold a value, exactly one writes it.

use super::host_memory::HostMemory;
use super::snapshot::Snapshot;
use super::stored_tensors::{Index, Stored, StoredShard, StoredTensor};
use super::stored_values::StoredValues;
use crate::comm::{Axis, Mesh, Reduce};
use crate::error::Result;
use crate::fp8::ScalingStates;
use neva_layout::{Stage, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tch::{Device, Tensor};

/// The tensors that one rank writes.
#[derive(Debug)]
pub(super) struct CheckpointShard {
    pub(super) model: Vec<TensorShard>,
    pub(super) optimizer: Vec<TensorShard>,
    /// Present if this rank writes anything.
    pub(super) files: Option<FileNames>,
    /// Ranks that write anything.
    pub(super) writers: Vec<usize>,
}

/// The names of a rank's two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileNames {
    pub(super) model: String,
    pub(super) optimizer: String,
    /// True if the files hold the whole checkpoint as whole tensors.
    pub(super) complete: bool,
}

/// A rectangle of a tensor, as it is stored.
#[derive(Debug)]
pub(super) struct TensorShard {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) window: Window,
    pub(super) values: StoredValues,
}

impl TensorShard {
    /// Creates the rectangle `window` of a tensor from its values in `flat`.
    fn new(name: String, shape: &[usize], window: Window, flat: StoredValues) -> Result<Self> {
        let is_whole = window == Window::whole(shape);
        let written: Vec<i64> = if is_whole {
            shape.iter().map(|size| *size as i64).collect()
        } else {
            window.shape().iter().map(|size| *size as i64).collect()
        };
        Ok(Self {
            name,
            shape: shape.to_vec(),
            window,
            values: flat.view(&written)?,
        })
    }

    fn is_whole(&self) -> bool {
        self.window == Window::whole(&self.shape)
    }

    /// Returns the tensor's name in the file. A shard's name includes the rectangle.
    pub(super) fn key(&self) -> String {
        let Window { rows, columns } = &self.window;
        if self.is_whole() {
            return self.name.clone();
        }
        format!("{}[{}:{},{}:{}]", self.name, rows.start, rows.end, columns.start, columns.end)
    }
}

impl CheckpointShard {
    /// Partitions the tensors among the ranks. Collective if there are several ranks.
    pub(super) fn of(snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<Self> {
        let tensor_group = mesh.axis(Axis::Tensor);
        let (tp_rank, tp) = (tensor_group.rank(), tensor_group.size());
        let is_first = is_first_holder(snapshot, mesh)?;
        let mut shard = Self {
            model: Vec::new(),
            optimizer: Vec::new(),
            files: None,
            writers: Vec::new(),
        };
        for (held, first) in snapshot.optimizer.shards().zip(is_first) {
            let (spec, range) = (held.spec, &held.range);
            // The last pipeline stage holds a copy of a tied embedding.
            let is_copy = mesh.axis(Axis::Pipeline).rank() > 0 && spec.stage == Stage::FirstAndLast;
            // Several ranks hold the same heads if there are fewer heads than ranks: the first of them writes.
            if !first || is_copy || !tp_rank.is_multiple_of(spec.copies(tp)) {
                continue;
            }
            for (start, window) in spec.windows_of(range.clone(), tp_rank, tp) {
                let first = start - range.start;
                let values = |flat: &Tensor| StoredValues::Tensor(flat.narrow(0, first as i64, window.numel() as i64));
                shard.model.push(TensorShard::new(
                    spec.name.clone(),
                    &spec.shape,
                    window.clone(),
                    held.master.narrow(first, window.numel())?.into(),
                )?);
                if snapshot.run.finetune.log.ckpt.save_weights_only {
                    continue;
                }
                for (moment, tensor) in &held.moments {
                    let name = format!("{}.{moment}", spec.name);
                    shard
                        .optimizer
                        .push(TensorShard::new(name, &spec.shape, window.clone(), values(tensor))?);
                }
                // The step is equal in all shards of a parameter: the first one stores it.
                if window.rows.start == 0 && window.columns.start == 0 {
                    let name = format!("{}.step", spec.name);
                    let step = StoredValues::Tensor(held.step.shallow_clone());
                    shard.optimizer.push(TensorShard::new(name, &[1], Window::whole(&[1]), step)?);
                }
            }
        }
        shard.add_fp8(snapshot, mesh)?;
        shard.number_files(mesh)?;
        Ok(shard)
    }

    /// Adds the scaling state of FP8 linears, which all ranks of the same layers share.
    fn add_fp8(&mut self, snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<()> {
        let is_first = mesh.dp_cp_group().rank() == 0 && mesh.axis(Axis::Tensor).rank() == 0;
        if !is_first || snapshot.run.finetune.log.ckpt.save_weights_only {
            return Ok(());
        }
        for state in snapshot.fp8.into_iter().flat_map(ScalingStates::states) {
            let [scale, history] = fp8_keys(state.linear);
            for (key, tensor) in [(scale, &state.scale), (history, &state.amax_history)] {
                let shape: Vec<_> = tensor.size().iter().map(|size| *size as usize).collect();
                let values = StoredValues::Tensor(tensor.shallow_clone());
                self.optimizer.push(TensorShard::new(key, &shape, Window::whole(&shape), values)?);
            }
        }
        Ok(())
    }

    /// Numbers the ranks that write anything.
    fn number_files(&mut self, mesh: &Mesh) -> Result<()> {
        let in_shards = !self.model.iter().all(TensorShard::is_whole);
        let writes = !(self.model.is_empty() && self.optimizer.is_empty());
        let mine = Tensor::from_slice(&[i64::from(writes), i64::from(in_shards)]);
        let all = mesh.world().all_gather(&mine)?;
        let flag = |index| all.iter().map(move |rank| rank.int64_value(&[index]) > 0);
        self.writers = (0..).zip(flag(0)).filter_map(|(rank, writes)| writes.then_some(rank)).collect();
        let complete = self.writers.len() == 1 && !flag(1).any(|in_shards| in_shards);
        let own = self.writers.iter().position(|rank| *rank == mesh.world().rank());
        self.files = own.map(|own| {
            let name = |what: &str| match complete {
                true => format!("{what}.safetensors"),
                false => format!("{what}-{:05}-of-{:05}.safetensors", own + 1, self.writers.len()),
            };
            FileNames {
                model: name("model"),
                optimizer: name("optimizer"),
                complete,
            }
        });
        Ok(())
    }

    /// Copies all tensors into memory that training does not touch.
    pub(super) fn copy_to_host(&mut self, memory: &HostMemory) -> Result<()> {
        let parts = self.model.iter_mut().chain(&mut self.optimizer);
        memory.fill(parts.map(|part| &mut part.values))
    }

    /// Returns its copies of all tensors.
    pub(super) fn copies(&self) -> Vec<Tensor> {
        let parts = self.model.iter().chain(&self.optimizer);
        let copy = |part: &TensorShard| match &part.values {
            StoredValues::Tensor(tensor) => Some(tensor.shallow_clone()),
            StoredValues::Split(_) => None,
        };
        parts.filter_map(copy).collect()
    }

    /// Returns its entries of `pieces.json`.
    pub(super) fn index(&self) -> Index {
        let Some(files) = &self.files else { return Index::default() };
        let stored = |parts: &[TensorShard], file: &str| {
            let mut stored = Stored::new();
            for part in parts {
                let tensor = stored.entry(part.name.clone()).or_insert_with(|| StoredTensor {
                    shape: part.shape.clone(),
                    shards: Vec::new(),
                });
                tensor.shards.push(StoredShard {
                    file: file.to_owned(),
                    key: part.key(),
                    window: part.window.clone(),
                });
            }
            stored
        };
        Index {
            model: stored(&self.model, &files.model),
            optimizer: stored(&self.optimizer, &files.optimizer),
        }
    }
}

/// Returns the names of a linear's FP8 scales and amax history, among the optimizer's tensors.
pub(super) fn fp8_keys(linear: &str) -> [String; 2] {
    ["fp8_scale", "fp8_amax_history"].map(|what| format!("{linear}.{what}"))
}

/// Returns, for each optimizer shard of this rank, whether no lower rank of the DP-CP group holds it. Shards of two ranks
/// are equal or disjoint.
fn is_first_holder(snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<Vec<bool>> {
    let numbers: BTreeMap<_, _> = snapshot
        .parameters
        .trainable()
        .map(|parameter| parameter.spec.name.as_str())
        .zip(0i64..)
        .collect();
    let place = |name: &str, range: &Range<usize>| [numbers.get(name).copied().unwrap_or(-1), range.start as i64, range.end as i64];
    let own: Vec<_> = snapshot
        .optimizer
        .shards()
        .map(|shard| place(&shard.spec.name, &shard.range))
        .collect();
    let replicas = mesh.dp_cp_group();
    // Trained parameters and their devices are the same on all ranks of the group.
    let device = snapshot.parameters.trainable().map(|parameter| parameter.tensor.device()).next();
    let Some(device) = device.filter(|_| replicas.size() > 1) else {
        return Ok(vec![true; own.len()]);
    };
    let most = Tensor::from(own.len() as i64).to_device(device);
    replicas.all_reduce(&most, Reduce::Max)?;
    let most = most.int64_value(&[]) as usize;
    let mut padded = own.concat();
    padded.resize(3 * most, -1);
    let all = replicas.all_gather(&Tensor::f_from_slice(&padded)?.to_device(device))?;
    let mut first = vec![true; own.len()];
    for theirs in &all[..replicas.rank()] {
        let theirs = Vec::<i64>::try_from(theirs.to_device(Device::Cpu))?;
        let held: BTreeSet<_> = theirs.chunks_exact(3).collect();
        for (first, shard) in first.iter_mut().zip(&own) {
            *first &= !held.contains(shard.as_slice());
        }
    }
    Ok(first)
}
