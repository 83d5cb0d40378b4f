//! Gradients of all trainable parameters in fp32: summed over micro-batches as backward passes go on, then over all
//! ranks that have a part of the sum.

use super::accumulator::Accumulator;
use super::partition::Partition;
use crate::comm::{Axis, Collective, Mesh, Reduce};
use crate::error::Result;
use crate::parameters::Parameters;
use neva_layout::{Cut, ParamSpec, partial_over_tensor};
use neva_schemas::MegatronStrategy;
use neva_torch_ffi::{BoxError, HookHandle, backward, foreach, on_grad_ready, take_grad};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// The gradients of a step.
#[derive(Debug)]
pub struct Gradients {
    accumulator: Arc<Mutex<Accumulator>>,
    /// One for each parameter: it takes the gradient out of the parameter.
    _hooks: Vec<HookHandle>,
    /// Each gradient, shaped as its parameter.
    views: Vec<Tensor>,
    /// Of each flattened gradient the values that this rank updates; perhaps none.
    own: Vec<Tensor>,
    roles: Vec<Role>,
    /// Number of the parameter that the other end of the pipeline holds too.
    tied: Option<usize>,
    touched: Vec<bool>,
}

/// What the other ranks make of a gradient.
#[derive(Debug, Clone, Copy)]
struct Role {
    /// Where several ranks of the tensor axis hold the same values.
    shared: Option<Shared>,
    /// How often this rank's values count in the norm, which is summed over all ranks.
    weight: f64,
}

/// How ranks of the tensor axis agree on the gradient of what they share.
#[derive(Debug, Clone, Copy)]
enum Shared {
    /// Each rank has a part of the sum.
    Sum,
    /// Each rank has computed all of it, from the same input. The mean makes it the same bit by bit, where kernels
    /// add in an order of their own; otherwise the copies would drift apart over thousands of steps. It costs less than
    /// to compare and to repair: the projector's 84 MB in fp32 beside a step's seconds of matrix products.
    Mean,
    /// The axis holds `parts` different parts, this rank that of number `part`; those with the same one have parts of
    /// its sum. Key and value heads, of which there may be fewer than ranks.
    Part { part: usize, parts: usize },
}

impl Shared {
    fn of(spec: &ParamSpec, strategy: &MegatronStrategy, (rank, ranks): (usize, usize)) -> Option<Self> {
        match (spec.copies(ranks), spec.cut) {
            (1, _) => None,
            _ if partial_over_tensor(spec, strategy) => Some(Self::Sum),
            (_, Cut::Replicate) => Some(Self::Mean),
            (copies, _) => Some(Self::Part {
                part: rank / copies,
                parts: ranks / copies,
            }),
        }
    }
}

impl Gradients {
    /// Zeros for every trainable parameter. From now on the gradients of backward passes come here.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(parameters: &Parameters, partition: &Partition, strategy: &MegatronStrategy, mesh: &Mesh) -> Result<Self> {
        let accumulator = Accumulator::new(parameters, partition, strategy.ddp.overlap_grad_reduce)?;
        let tensor = mesh.axis(Axis::Tensor);
        let place = (tensor.rank(), tensor.size());
        let (mut views, mut own, mut roles) = (Vec::new(), Vec::new(), Vec::new());
        for (index, parameter) in parameters.trainable().enumerate() {
            let (view, range, copies) = (
                accumulator.view(index).shallow_clone(),
                partition.own(index),
                parameter.spec.copies(place.1),
            );
            own.push(view.f_view([-1])?.f_narrow(0, range.start as i64, range.len() as i64)?);
            views.push(view);
            roles.push(Role {
                shared: Shared::of(&parameter.spec, strategy, place),
                weight: match copies * partition.copies(index) {
                    0 => 0.0,
                    copies => 1.0 / copies as f64,
                },
            });
        }
        let accumulator = Arc::new(Mutex::new(accumulator));
        let hooks = parameters.trainable().enumerate().map(|(index, parameter)| {
            let (accumulator, leaf) = (accumulator.clone(), parameter.tensor.shallow_clone());
            on_grad_ready(&parameter.tensor, move || {
                let grad = take_grad(&leaf)?;
                lock(&accumulator).add(index, grad.as_ref()).map_err(BoxError::from)
            })
        });
        Ok(Self {
            _hooks: hooks.collect::<Result<_, _>>()?,
            touched: vec![false; views.len()],
            accumulator,
            views,
            own,
            roles,
            tied: partition.tied(),
        })
    }

    /// One backward pass from `output`, given its gradient (`None`: that of a loss, 1). Adds the gradients of all
    /// parameters below it, and returns that of `input`, a leaf.
    ///
    /// `last` are the numbers, among the trainable parameters, of those that no later pass of the step reaches. Their
    /// buckets are sent while the pass goes on: all ranks send the same buckets in the same order, but when, and
    /// whether a gradient came at all, is each rank's own affair.
    ///
    /// # Errors
    /// A collective failed.
    pub fn backward(&mut self, output: &Tensor, grad: Option<&Tensor>, input: Option<&Tensor>, last: &[usize]) -> Result<Option<Tensor>> {
        lock(&self.accumulator).begin(last);
        backward(&[output], &[grad], false)?;
        lock(&self.accumulator).end(last)?;
        Ok(input.map(take_grad).transpose()?.flatten())
    }

    /// Sums over all ranks that have a part: data and context, tensor where each rank saw a part of the sequence or of
    /// the samples, both ends of the pipeline where they hold one parameter. With a distributed optimizer the
    /// values that this rank updates are sums then, the others are not. A parameter that any rank touched counts as
    /// touched on all.
    ///
    /// # Errors
    /// A collective failed.
    pub fn reduce(&mut self, mesh: &Mesh) -> Result<()> {
        let device = self.device();
        {
            let mut accumulator = lock(&self.accumulator);
            accumulator.send_rest()?;
            self.touched.copy_from_slice(accumulator.touched());
            any_rank(&mut self.touched, &**mesh.replicas(), device)?;
            accumulator.wait()?;
        }
        let tensor = mesh.axis(Axis::Tensor);
        if self.roles.iter().any(|role| matches!(role.shared, Some(Shared::Sum))) {
            any_rank(&mut self.touched, &**tensor, device)?;
        }
        self.reduce_over_tensor(&**tensor)?;
        if let Some(tied) = self.tied {
            any_rank(&mut self.touched[tied..=tied], &**mesh.ends(), device)?;
            mesh.ends().all_reduce(&self.own[tied], Reduce::Sum)?;
        }
        Ok(())
    }

    /// Sums and means over the tensor axis, in one piece: they are small.
    fn reduce_over_tensor(&self, group: &dyn Collective) -> Result<()> {
        let own = self.own.iter().zip(&self.roles).filter(|(own, _)| own.numel() > 0);
        let shared: Vec<_> = own.filter_map(|(own, role)| Some((own, role.shared?))).collect();
        if shared.is_empty() || group.size() == 1 {
            return Ok(());
        }
        let mut sent = Vec::new();
        for (own, shared) in &shared {
            sent.push(match shared {
                Shared::Sum => own.shallow_clone(),
                Shared::Mean => own.f_mul_scalar(1.0 / group.size() as f64)?,
                Shared::Part { part, parts } => {
                    let all = Tensor::f_zeros([*parts as i64, own.size1()?], (own.kind(), own.device()))?;
                    all.f_select(0, *part as i64)?.f_copy_(own)?;
                    all.f_view([-1])?
                }
            });
        }
        let flat = Tensor::f_cat(&sent, 0)?;
        group.all_reduce(&flat, Reduce::Sum)?;
        let sizes: Vec<_> = sent.iter().map(|sent| sent.numel() as i64).collect();
        let mut sums = flat.f_split_with_sizes(&sizes, 0)?;
        for (sum, (_, shared)) in sums.iter_mut().zip(&shared) {
            if let Shared::Part { part, parts } = shared {
                *sum = sum.f_view([*parts as i64, -1])?.f_select(0, *part as i64)?;
            }
        }
        let own: Vec<_> = shared.iter().map(|(own, _)| *own).collect();
        Ok(foreach::copy_(&own, &sums.iter().collect::<Vec<_>>())?)
    }

    /// Global L2 norm; every value of the model counts once.
    ///
    /// # Errors
    /// A collective failed.
    pub fn norm(&self, mesh: &Mesh) -> Result<f64> {
        let own = self.own.iter().zip(&self.roles).filter(|(own, _)| own.numel() > 0);
        let (own, weights): (Vec<_>, Vec<_>) = own.map(|(own, role)| (own, role.weight)).unzip();
        let norms = foreach::norm(&own, 2.0, None)?;
        let square = if norms.is_empty() {
            Tensor::from(0f64).to_device(self.device())
        } else {
            let norms = Tensor::f_stack(&norms, 0)?.to_kind(Kind::Double);
            norms.square().dot(&Tensor::from_slice(&weights).to_device(self.device()))
        };
        mesh.world().all_reduce(&square, Reduce::Sum)?;
        Ok(square.sqrt().double_value(&[]))
    }

    /// Multiplies everything that this rank updates by `factor`.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        Ok(foreach::mul_(&lock(&self.accumulator).shares(), factor)?)
    }

    /// Back to zeros, untouched.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn reset(&mut self) -> Result<()> {
        self.touched.fill(false);
        lock(&self.accumulator).reset()
    }

    /// Gradient of each trainable parameter, in order; `None` where no rank touched it.
    pub fn touched(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.views.iter().zip(&self.touched).map(|(view, touched)| touched.then_some(view))
    }

    /// Of a parameter's flattened gradient the values that this rank updates; `None` where no rank touched it.
    pub(super) fn own(&self, index: usize) -> Option<&Tensor> {
        self.touched[index].then(|| &self.own[index])
    }

    fn device(&self) -> Device {
        self.views.first().map_or(Device::Cpu, Tensor::device)
    }
}

/// Sets the flags that any rank of the group has set.
fn any_rank(flags: &mut [bool], group: &dyn Collective, device: Device) -> Result<()> {
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

/// A hook that failed has ended the backward pass with its error.
fn lock(accumulator: &Mutex<Accumulator>) -> MutexGuard<'_, Accumulator> {
    accumulator.lock().unwrap_or_else(PoisonError::into_inner)
}
