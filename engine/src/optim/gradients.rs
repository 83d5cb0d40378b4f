//! Gradients of all trainable parameters in fp32: accumulated over microbatches, then reduced over all ranks that hold
//! partial sums.

use super::grad_buffer::GradBuffer;
use super::partition::Partition;
use crate::comm::{Axis, Mesh, ProcessGroup, Reduce};
use crate::error::Result;
use crate::parameters::Parameters;
use neva_layout::{Cut, ParamSpec};
use neva_schemas::MegatronStrategy;
use neva_torch_ffi::{BoxError, HookHandle, backward, foreach, on_grad_ready, take_grad};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// The gradients of a step.
#[derive(Debug)]
pub struct Gradients {
    grad_buffer: Arc<Mutex<GradBuffer>>,
    /// One for each parameter: moves the gradient from the parameter to the buffer.
    _hooks: Vec<HookHandle>,
    /// Each gradient, shaped as its parameter, after [`Self::reduce`]; `None` without memory.
    views: Vec<Option<Tensor>>,
    /// The values of each flattened gradient that this rank updates; may be empty.
    own: Vec<Option<Tensor>>,
    /// Ranges of these values.
    ranges: Vec<Range<usize>>,
    device: Device,
    roles: Vec<GradRole>,
    /// Number of the tied embedding, which the other rank of the embedding group also holds.
    tied: Option<usize>,
    touched: Vec<bool>,
}

/// Reduction of one gradient beyond the DP-CP group.
#[derive(Debug, Clone, Copy)]
struct GradRole {
    /// Reduction over tensor-parallel ranks that hold the same values.
    tensor_reduce: Option<TensorReduce>,
    /// Weight of this rank's values in the norm, which is summed over all ranks.
    weight: f64,
}

/// Reduction of a gradient in the tensor-parallel group.
#[derive(Debug, Clone, Copy)]
enum TensorReduce {
    /// Each rank holds a partial sum.
    Sum,
    /// Each rank has computed the whole gradient from the same input. The mean makes it bitwise equal if kernels add in
    /// different orders; otherwise the copies would drift apart over thousands of steps. The cost is small: the
    /// projector's 84 MB in fp32, compared to seconds of matrix products in a step.
    Mean,
    /// The group holds `shards` different shards. This rank holds shard `shard`; ranks with the same shard hold partial
    /// sums of its gradient. Used for key and value heads, of which there may be fewer than ranks.
    Shard { shard: usize, shards: usize },
}

impl TensorReduce {
    fn of(spec: &ParamSpec, strategy: &MegatronStrategy, (rank, ranks): (usize, usize)) -> Option<Self> {
        match (spec.copies(ranks), spec.cut) {
            (1, _) => None,
            _ if spec.is_partial_sum(strategy) => Some(Self::Sum),
            (_, Cut::Replicate) => Some(Self::Mean),
            (copies, _) => Some(Self::Shard {
                shard: rank / copies,
                shards: ranks / copies,
            }),
        }
    }
}

impl Gradients {
    /// Creates zero gradients for every trainable parameter. Backward passes accumulate here from now on.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(parameters: &Parameters, partition: &Partition, strategy: &MegatronStrategy, mesh: &Mesh) -> Result<Self> {
        let grad_buffer = GradBuffer::new(parameters, partition, strategy.ddp.overlap_grad_reduce);
        let tensor = mesh.axis(Axis::Tensor);
        let place = (tensor.rank(), tensor.size());
        let (mut ranges, mut roles) = (Vec::new(), Vec::new());
        for (index, parameter) in parameters.trainable().enumerate() {
            let copies = parameter.spec.copies(place.1);
            ranges.push(partition.local_range(index));
            roles.push(GradRole {
                tensor_reduce: TensorReduce::of(&parameter.spec, strategy, place),
                weight: match copies * partition.copies(index) {
                    0 => 0.0,
                    copies => 1.0 / copies as f64,
                },
            });
        }
        let grad_buffer = Arc::new(Mutex::new(grad_buffer));
        let hooks = parameters.trainable().enumerate().map(|(index, parameter)| {
            let (grad_buffer, leaf) = (grad_buffer.clone(), parameter.tensor.shallow_clone());
            on_grad_ready(&parameter.tensor, move || {
                let grad = take_grad(&leaf)?;
                lock(&grad_buffer).add(index, grad.as_ref()).map_err(BoxError::from)
            })
        });
        Ok(Self {
            _hooks: hooks.collect::<Result<_, _>>()?,
            touched: vec![false; roles.len()],
            grad_buffer,
            views: Vec::new(),
            own: Vec::new(),
            ranges,
            device: parameters.trainable().next().map_or(Device::Cpu, |first| first.tensor.device()),
            roles,
            tied: partition.tied(),
        })
    }

    /// Runs a backward pass from `output` with its gradient `grad` (`None`: 1, for a loss). Accumulates the gradients of
    /// all parameters below it, and returns the gradient of `input`, a leaf.
    ///
    /// `last` are the numbers, among the trainable parameters, of those that no later pass of the step reaches. Their
    /// buckets are reduced during the pass. All ranks reduce the same buckets in the same order, even without a
    /// gradient.
    ///
    /// # Errors
    /// A collective failed.
    pub fn backward(&mut self, output: &Tensor, grad: Option<&Tensor>, input: Option<&Tensor>, last: &[usize]) -> Result<Option<Tensor>> {
        lock(&self.grad_buffer).begin_pass(last);
        backward(&[output], &[grad], false)?;
        lock(&self.grad_buffer).end_pass(last)?;
        Ok(input.map(take_grad).transpose()?.flatten())
    }

    /// Reduces gradients over all ranks that hold partial sums: the DP-CP group, the tensor-parallel group for parameters
    /// with different inputs on its ranks, and the embedding group for a tied embedding. With a distributed optimizer only
    /// the values that this rank updates are reduced. A parameter that any rank touched counts as touched on all.
    ///
    /// # Errors
    /// A collective failed.
    pub fn reduce(&mut self, mesh: &Mesh) -> Result<()> {
        let device = self.device;
        {
            let mut grad_buffer = lock(&self.grad_buffer);
            grad_buffer.start_remaining_buckets()?;
            self.touched.copy_from_slice(grad_buffer.touched());
            any_rank(&mut self.touched, &**mesh.dp_cp_group(), device)?;
            grad_buffer.finish_grad_sync()?;
            self.views = (0..self.roles.len()).map(|index| grad_buffer.view(index)).collect::<Result<_>>()?;
        }
        let own = |(view, range): (&Option<Tensor>, &Range<usize>)| {
            let own = |view: &Tensor| view.f_view([-1])?.f_narrow(0, range.start as i64, range.len() as i64);
            Ok(view.as_ref().map(own).transpose()?)
        };
        self.own = self.views.iter().zip(&self.ranges).map(own).collect::<Result<_>>()?;
        let tensor = mesh.axis(Axis::Tensor);
        if self.roles.iter().any(|role| matches!(role.tensor_reduce, Some(TensorReduce::Sum))) {
            any_rank(&mut self.touched, &**tensor, device)?;
        }
        self.reduce_over_tensor(&**tensor)?;
        if let Some(tied) = self.tied {
            any_rank(&mut self.touched[tied..=tied], &**mesh.embedding_group(), device)?;
            if let Some(own) = &self.own[tied] {
                mesh.embedding_group().all_reduce(own, Reduce::Sum)?;
            }
        }
        Ok(())
    }

    /// Reduces gradients over the tensor-parallel group in one small all-reduce.
    fn reduce_over_tensor(&self, group: &dyn ProcessGroup) -> Result<()> {
        let shared: Vec<_> = self.held().filter_map(|(own, role)| Some((own, role.tensor_reduce?))).collect();
        if shared.is_empty() || group.size() == 1 {
            return Ok(());
        }
        let mut sent = Vec::new();
        for (own, shared) in &shared {
            sent.push(match shared {
                TensorReduce::Sum => own.shallow_clone(),
                TensorReduce::Mean => own.f_mul_scalar(1.0 / group.size() as f64)?,
                TensorReduce::Shard { shard, shards } => {
                    let all = Tensor::f_zeros([*shards as i64, own.size1()?], (own.kind(), own.device()))?;
                    all.f_select(0, *shard as i64)?.f_copy_(own)?;
                    all.f_view([-1])?
                }
            });
        }
        let flat = Tensor::f_cat(&sent, 0)?;
        group.all_reduce(&flat, Reduce::Sum)?;
        let sizes: Vec<_> = sent.iter().map(|sent| sent.numel() as i64).collect();
        let mut sums = flat.f_split_with_sizes(&sizes, 0)?;
        for (sum, (_, shared)) in sums.iter_mut().zip(&shared) {
            if let TensorReduce::Shard { shard, shards } = shared {
                *sum = sum.f_view([*shards as i64, -1])?.f_select(0, *shard as i64)?;
            }
        }
        let own: Vec<_> = shared.iter().map(|(own, _)| *own).collect();
        Ok(foreach::copy_(&own, &sums.iter().collect::<Vec<_>>())?)
    }

    /// Returns the global L2 norm; every value of the model counts once.
    ///
    /// # Errors
    /// A collective failed.
    pub fn norm(&self, mesh: &Mesh) -> Result<f64> {
        let (own, weights): (Vec<_>, Vec<_>) = self.held().map(|(own, role)| (own, role.weight)).unzip();
        let norms = foreach::norm(&own, 2.0, None)?;
        let square = if norms.is_empty() {
            Tensor::from(0f64).to_device(self.device)
        } else {
            let norms = Tensor::f_stack(&norms, 0)?.to_kind(Kind::Double);
            norms.square().dot(&Tensor::from_slice(&weights).to_device(self.device))
        };
        mesh.world().all_reduce(&square, Reduce::Sum)?;
        Ok(square.sqrt().double_value(&[]))
    }

    /// Multiplies all values that this rank updates by `factor`.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        let shards = lock(&self.grad_buffer).local_shards()?;
        Ok(foreach::mul_(&shards.iter().collect::<Vec<_>>(), factor)?)
    }

    /// Drops all gradients: none is touched, and their memory is free.
    pub fn reset(&mut self) {
        self.touched.fill(false);
        self.views.clear();
        self.own.clear();
        lock(&self.grad_buffer).reset();
    }

    /// Returns the gradient of each trainable parameter, in order; `None` if no rank touched it.
    pub fn touched(&self) -> impl Iterator<Item = Option<&Tensor>> {
        let view = |index: usize| self.views.get(index)?.as_ref();
        (self.touched.iter().enumerate()).map(move |(index, touched)| if *touched { view(index) } else { None })
    }

    /// Returns the values that this rank updates, if there are any, with their roles.
    fn held(&self) -> impl Iterator<Item = (&Tensor, &GradRole)> {
        let own = self.own.iter().zip(&self.roles);
        own.filter_map(|(own, role)| Some((own.as_ref().filter(|own| own.numel() > 0)?, role)))
    }

    /// Returns the values of a flattened gradient that this rank updates; `None` if no rank touched it.
    pub(super) fn own(&self, index: usize) -> Option<&Tensor> {
        self.own.get(index)?.as_ref().filter(|_| self.touched[index])
    }
}

/// Sets every flag that any rank of the group has set.
fn any_rank(flags: &mut [bool], group: &dyn ProcessGroup, device: Device) -> Result<()> {
    if flags.is_empty() || group.size() == 1 {
        return Ok(());
    }
    let values: Vec<_> = flags.iter().map(|flag| f32::from(u8::from(*flag))).collect();
    let values = Tensor::from_slice(&values).to_device(device);
    group.all_reduce(&values, Reduce::Max)?;
    for (flag, value) in flags.iter_mut().zip(Vec::<f32>::try_from(values)?) {
        *flag = value > 0.0;
    }
    Ok(())
}

/// Locks the buffer. After a panic in a hook, the backward pass has already failed.
fn lock(grad_buffer: &Mutex<GradBuffer>) -> MutexGuard<'_, GradBuffer> {
    grad_buffer.lock().unwrap_or_else(PoisonError::into_inner)
}
