//! Gradients of all trainable parameters in fp32, summed over micro-batches and data-parallel ranks.

use crate::comm::{Axis, Mesh, Reduce};
use crate::error::{EngineError, Result};
use crate::parameters::{Parameter, Parameters};
use neva_layout::{Cut, in_sequence_region};
use neva_torch_ffi::foreach;
use tch::{Kind, Tensor};

/// Values of one bucket at most: large enough to use a link's bandwidth, small enough to overlap later.
const BUCKET: i64 = 32 << 20;

/// Flat fp32 buffers, and a view of them for each trainable parameter, in the parameters' order.
#[derive(Debug)]
pub struct Gradients {
    buckets: Vec<Tensor>,
    views: Vec<Tensor>,
    cut: Vec<bool>,
    /// Whether this rank's gradient is a partial sum over the tensor axis.
    partial: Vec<bool>,
    /// Number of the embedding, where the head is tied to it: both ends of a pipeline hold it.
    tied: Option<usize>,
    touched: Vec<bool>,
}

impl Gradients {
    /// Zeros for every trainable parameter. With `sequence_parallel` each tensor-parallel rank sees a part of each
    /// sequence only; with `tied` the head's weight is the embedding's.
    pub fn new(parameters: &Parameters, sequence_parallel: bool, tied: bool) -> Self {
        let mut gradients = Self {
            buckets: Vec::new(),
            views: Vec::new(),
            cut: Vec::new(),
            partial: Vec::new(),
            tied: None,
            touched: Vec::new(),
        };
        let all: Vec<_> = parameters.trainable().collect();
        let embedding = |parameter: &&Parameter| parameter.spec.name.ends_with("embed_tokens.weight");
        gradients.tied = all.iter().position(embedding).filter(|_| tied);
        let mut first = 0;
        while first < all.len() {
            let mut size = 0;
            let mut end = first;
            while end < all.len() && (end == first || size + all[end].tensor.numel() as i64 <= BUCKET) {
                size += all[end].tensor.numel() as i64;
                end += 1;
            }
            let bucket = Tensor::zeros([size], (Kind::Float, all[first].tensor.device()));
            let mut start = 0;
            for parameter in &all[first..end] {
                let numel = parameter.tensor.numel() as i64;
                gradients.views.push(bucket.narrow(0, start, numel).view_as(&parameter.tensor));
                gradients.cut.push(parameter.spec.cut != Cut::Replicate);
                gradients.partial.push(sequence_parallel && in_sequence_region(&parameter.spec));
                start += numel;
            }
            gradients.buckets.push(bucket);
            first = end;
        }
        gradients.touched = vec![false; gradients.views.len()];
        gradients
    }

    /// Adds one micro-batch's gradients of the parameters of these numbers; `None` where none reached the parameter.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn add(&mut self, numbers: &[usize], grads: &[Option<Tensor>]) -> Result<()> {
        if grads.len() != numbers.len() {
            return Err(EngineError::Bug(format!(
                "{} gradients for {} parameters",
                grads.len(),
                numbers.len()
            )));
        }
        let mut views = Vec::new();
        let mut values = Vec::new();
        for (number, grad) in numbers.iter().zip(grads) {
            if let Some(grad) = grad {
                self.touched[*number] = true;
                views.push(&self.views[*number]);
                values.push(grad.to_kind(Kind::Float));
            }
        }
        let values: Vec<_> = values.iter().collect();
        Ok(foreach::add_(&views, &values, 1.0)?)
    }

    /// Sums over the replicas, and what is partial over the tensor-parallel ranks or both ends of the pipeline. A
    /// parameter that any rank touched counts as touched on all.
    ///
    /// # Errors
    /// A collective failed.
    pub fn reduce(&mut self, mesh: &Mesh) -> Result<()> {
        self.reduce_partial(mesh)?;
        if let Some(tied) = self.tied {
            mesh.ends().all_reduce(&self.views[tied], Reduce::Sum)?;
            let touched = Tensor::from(f32::from(u8::from(self.touched[tied]))).to_device(self.views[tied].device());
            mesh.ends().all_reduce(&touched, Reduce::Max)?;
            self.touched[tied] = touched.double_value(&[]) > 0.0;
        }
        let group = mesh.replicas();
        if group.size() == 1 {
            return Ok(());
        }
        let flags: Vec<f32> = self.touched.iter().map(|touched| f32::from(u8::from(*touched))).collect();
        if !flags.is_empty() {
            let flags = Tensor::from_slice(&flags).to_device(self.views[0].device());
            group.all_reduce(&flags, Reduce::Max)?;
            let flags = Vec::<f32>::try_from(flags)?;
            self.touched = flags.iter().map(|flag| *flag > 0.0).collect();
        }
        for bucket in &self.buckets {
            group.all_reduce(bucket, Reduce::Sum)?;
        }
        Ok(())
    }

    /// Sums the gradients that are partial over the tensor axis, in one piece: they are small.
    fn reduce_partial(&self, mesh: &Mesh) -> Result<()> {
        let partial = self
            .views
            .iter()
            .zip(&self.partial)
            .filter_map(|(view, partial)| partial.then_some(view));
        let views: Vec<_> = partial.collect();
        if views.is_empty() {
            return Ok(());
        }
        let flat = Tensor::cat(&views.iter().map(|view| view.flatten(0, -1)).collect::<Vec<_>>(), 0);
        mesh.axis(Axis::Tensor).all_reduce(&flat, Reduce::Sum)?;
        let sizes: Vec<_> = views.iter().map(|view| view.numel() as i64).collect();
        let sums = flat.split_with_sizes(&sizes, 0);
        let sums: Vec<_> = sums.iter().zip(&views).map(|(sum, view)| sum.view_as(view)).collect();
        Ok(foreach::copy_(&views, &sums.iter().collect::<Vec<_>>())?)
    }

    /// Global L2 norm: parts of cut parameters are summed over the tensor axis, stages over the pipeline; what several
    /// ranks hold counts once.
    ///
    /// # Errors
    /// A collective failed.
    pub fn norm(&self, mesh: &Mesh) -> Result<f64> {
        let views: Vec<_> = self.views.iter().collect();
        let norms = foreach::norm(&views, 2.0, None)?;
        // The last stage of a pipeline holds the tied embedding a second time.
        let again = self.tied.filter(|_| mesh.ends().rank() > 0);
        let squares = |cut: bool| -> Tensor {
            let of_kind: Vec<_> = norms
                .iter()
                .zip(&self.cut)
                .enumerate()
                .filter(|(number, (_, is_cut))| **is_cut == cut && Some(*number) != again)
                .map(|(_, (norm, _))| norm.to_kind(Kind::Double))
                .collect();
            if of_kind.is_empty() {
                Tensor::from(0f64)
            } else {
                Tensor::stack(&of_kind, 0).square().sum(Kind::Double)
            }
        };
        let cut = squares(true);
        mesh.axis(Axis::Tensor).all_reduce(&cut, Reduce::Sum)?;
        let all = cut + squares(false);
        mesh.axis(Axis::Pipeline).all_reduce(&all, Reduce::Sum)?;
        Ok(all.sqrt().double_value(&[]))
    }

    /// Multiplies everything by `factor`.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        let buckets: Vec<_> = self.buckets.iter().collect();
        Ok(foreach::mul_(&buckets, factor)?)
    }

    /// Back to zeros, untouched.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn reset(&mut self) -> Result<()> {
        self.touched.fill(false);
        let buckets: Vec<_> = self.buckets.iter().collect();
        Ok(foreach::zero_(&buckets)?)
    }

    /// Gradient of each trainable parameter, in order; `None` where no rank touched it.
    pub fn touched(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.views.iter().zip(&self.touched).map(|(view, touched)| touched.then_some(view))
    }
}
