//! What a rank writes of a checkpoint: of every value that several ranks hold, one writes it.

use super::host_memory::HostMemory;
use super::pieces::{Index, Stored, StoredPiece, StoredTensor};
use super::save::Snapshot;
use crate::comm::{Axis, Mesh, Reduce};
use crate::error::Result;
use neva_layout::{Window, tied_embedding};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tch::{Device, Tensor};

/// What one rank writes.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) model: Vec<Part>,
    pub(super) optimizer: Vec<Part>,
    /// Where this rank writes anything.
    pub(super) files: Option<FileNames>,
    /// Ranks that write anything.
    pub(super) writers: Vec<usize>,
}

/// The names of a rank's two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileNames {
    pub(super) model: String,
    pub(super) optimizer: String,
    /// They hold the whole checkpoint, tensor by tensor.
    pub(super) alone: bool,
}

/// A rectangle of a tensor, as it is written.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) window: Window,
    pub(super) tensor: Tensor,
}

impl Part {
    /// The rectangle `window` of a tensor, whose values lie in `flat`.
    fn new(name: String, shape: &[usize], window: Window, flat: &Tensor) -> Result<Self> {
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
            tensor: flat.f_view(written.as_slice())?.detach(),
        })
    }

    fn is_whole(&self) -> bool {
        self.window == Window::whole(&self.shape)
    }

    /// Its name in a file: of less than the whole tensor, with the rectangle.
    pub(super) fn key(&self) -> String {
        let Window { rows, columns } = &self.window;
        if self.is_whole() {
            return self.name.clone();
        }
        format!("{}[{}:{},{}:{}]", self.name, rows.start, rows.end, columns.start, columns.end)
    }
}

impl Share {
    /// Shares the writing out. A collective where there are replicas or several ranks at all.
    pub(super) fn of(snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<Self> {
        let tensor_group = mesh.axis(Axis::Tensor);
        let (tp_rank, tp) = (tensor_group.rank(), tensor_group.size());
        let tied = tied_embedding(snapshot.run.finetune.model.llava());
        let first_of_replicas = held_first(snapshot, mesh)?;
        let mut share = Self {
            model: Vec::new(),
            optimizer: Vec::new(),
            files: None,
            writers: Vec::new(),
        };
        for (piece, first) in snapshot.optimizer.pieces().zip(first_of_replicas) {
            let (spec, range) = (piece.spec, &piece.range);
            // The last stage of a pipeline holds a tied embedding a second time.
            let again = mesh.axis(Axis::Pipeline).rank() > 0 && tied == Some(spec.name.as_str());
            // Heads of which there are fewer than ranks are held by several: the first of them writes.
            if !first || again || !tp_rank.is_multiple_of(spec.copies(tp)) {
                continue;
            }
            for (start, window) in spec.windows_of(range.clone(), tp_rank, tp) {
                let values = |flat: &Tensor| flat.narrow(0, (start - range.start) as i64, window.numel() as i64);
                share
                    .model
                    .push(Part::new(spec.name.clone(), &spec.shape, window.clone(), &values(piece.master))?);
                if snapshot.run.finetune.log.ckpt.save_weights_only {
                    continue;
                }
                for (moment, tensor) in &piece.moments {
                    let name = format!("{}.{moment}", spec.name);
                    share.optimizer.push(Part::new(name, &spec.shape, window.clone(), &values(tensor))?);
                }
                // The same in all pieces: the first of them has it.
                if window.rows.start == 0 && window.columns.start == 0 {
                    let name = format!("{}.step", spec.name);
                    share.optimizer.push(Part::new(name, &[1], Window::whole(&[1]), piece.step)?);
                }
            }
        }
        share.number_files(mesh)?;
        Ok(share)
    }

    /// Numbers the ranks that write anything.
    fn number_files(&mut self, mesh: &Mesh) -> Result<()> {
        let in_pieces = !self.model.iter().all(Part::is_whole);
        let mine = Tensor::from_slice(&[i64::from(!self.model.is_empty()), i64::from(in_pieces)]);
        let all = mesh.world().all_gather(&mine)?;
        let flag = |index| all.iter().map(move |rank| rank.int64_value(&[index]) > 0);
        self.writers = (0..).zip(flag(0)).filter_map(|(rank, writes)| writes.then_some(rank)).collect();
        let alone = self.writers.len() == 1 && !flag(1).any(|in_pieces| in_pieces);
        let own = self.writers.iter().position(|rank| *rank == mesh.world().rank());
        self.files = own.map(|own| {
            let name = |what: &str| match alone {
                true => format!("{what}.safetensors"),
                false => format!("{what}-{:05}-of-{:05}.safetensors", own + 1, self.writers.len()),
            };
            FileNames {
                model: name("model"),
                optimizer: name("optimizer"),
                alone,
            }
        });
        Ok(())
    }

    /// Copies everything into memory that training does not touch.
    pub(super) fn copy_to_host(&mut self, memory: &HostMemory) -> Result<()> {
        let parts = self.model.iter_mut().chain(&mut self.optimizer);
        memory.fill(&mut parts.map(|part| &mut part.tensor).collect::<Vec<_>>())
    }

    /// Everything that it writes.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let parts = self.model.iter().chain(&self.optimizer);
        parts.map(|part| part.tensor.shallow_clone()).collect()
    }

    /// What `pieces.json` says of it.
    pub(super) fn index(&self) -> Index {
        let Some(files) = &self.files else { return Index::default() };
        let stored = |parts: &[Part], file: &str| {
            let mut stored = Stored::new();
            for part in parts {
                let tensor = stored.entry(part.name.clone()).or_insert_with(|| StoredTensor {
                    shape: part.shape.clone(),
                    pieces: Vec::new(),
                });
                tensor.pieces.push(StoredPiece {
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

/// For each piece of this rank, whether no replica of a lower number holds it, too. Replicas hold either the same
/// pieces or different ones, never parts of each other's.
fn held_first(snapshot: &Snapshot<'_>, mesh: &Mesh) -> Result<Vec<bool>> {
    let numbers: BTreeMap<_, _> = snapshot
        .parameters
        .trainable()
        .map(|parameter| parameter.spec.name.as_str())
        .zip(0i64..)
        .collect();
    let place = |name: &str, range: &Range<usize>| [numbers.get(name).copied().unwrap_or(-1), range.start as i64, range.end as i64];
    let own: Vec<_> = snapshot
        .optimizer
        .pieces()
        .map(|piece| place(&piece.spec.name, &piece.range))
        .collect();
    let replicas = mesh.replicas();
    // What is trained, and where it lies, is the same on all replicas.
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
        for (first, piece) in first.iter_mut().zip(&own) {
            *first &= !held.contains(piece.as_slice());
        }
    }
    Ok(first)
}
