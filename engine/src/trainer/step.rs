//! One optimizer step.

use super::loaded::LoadedModel;
use super::passes::{Boundary, Training, Validation};
use crate::comm::{Axis, Mesh, Reduce, stages_succeed};
use crate::error::{EngineError, Result};
use crate::model::Batch;
use crate::optim::{Gradients, Optimizer, Partition};
use crate::parallel::{Pipeline, StageReport, context_part};
use crate::parameters::Parameters;
use neva_layout::{ParamSpec, ZigZag, forward_schedule, schedule};
use neva_schemas::{Finetune, LossNormalization, NanPolicy};
use tch::{Kind, Tensor};

/// A model and its optimizer on one rank of a mesh.
#[derive(Debug)]
pub struct Trainer {
    mesh: Mesh,
    pipeline: Pipeline,
    loaded: LoadedModel,
    gradients: Gradients,
    optimizer: Optimizer,
    normalization: LossNormalization,
    nan_policy: NanPolicy,
    clip_grad: f64,
    shape: Boundary,
    stage_report: StageReport,
}

/// What one step did, the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Cross entropy, mean over all labelled tokens of the global batch (NeMo's `reduced_train_loss`).
    pub loss: f64,
    /// What was differentiated: the same, or the mean of the micro-batches' means.
    pub objective: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Labelled tokens of the global batch.
    pub labels: u64,
    /// Positions of the global batch, padding left out.
    pub tokens: u64,
    /// Samples of the global batch without any label.
    pub zero_label_samples: u64,
    /// Micro-batches without any picture.
    pub text_only_microbatches: u64,
    /// False where the loss or the gradient was not finite, and the step changed nothing.
    pub applied: bool,
}

/// What a validation measures, summed over samples and data-parallel ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evaluation {
    /// Sum of the cross entropy over the labelled tokens.
    pub loss_sum: f64,
    /// Labelled tokens.
    pub labels: u64,
    /// Samples.
    pub samples: u64,
}

/// A micro-batch and the counts that are known before it is computed.
#[derive(Debug)]
pub struct Microbatch {
    /// The tensors; on a rank of the context axis its part of each row.
    pub batch: Batch,
    /// Labelled tokens of the whole rows.
    pub labels: u64,
    /// Positions, padding left out.
    pub tokens: u64,
    /// Samples without any label.
    pub zero_label_samples: u64,
    /// No picture stands in the whole rows. Pixels may be missing elsewhere, too: on a stage without the vision encoder.
    pub text_only: bool,
}

impl Trainer {
    /// Adds what training needs to a model: gradient buffers and optimizer state of whatever is trainable.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(finetune: &Finetune, loaded: LoadedModel, mesh: Mesh) -> Result<Self> {
        let (strategy, parameters) = (&finetune.trainer.strategy, &loaded.parameters);
        let partition = Partition::new(parameters, finetune, &mesh);
        let gradients = Gradients::new(parameters, &partition, strategy, &mesh)?;
        let optimizer = Optimizer::new(&finetune.optim, &strategy.ddp, parameters, &partition)?;
        if let Some(wait) = optimizer.arrivals() {
            loaded.arrival.of(wait);
        }
        Ok(Self {
            gradients,
            optimizer,
            normalization: finetune.trainer.loss_normalization,
            nan_policy: finetune.trainer.nan_policy,
            clip_grad: *finetune.optim.clip_grad(),
            pipeline: Pipeline::new(mesh.axis(Axis::Pipeline).clone(), loaded.stages.clone()),
            shape: Boundary::of(finetune, &mesh),
            stage_report: StageReport::default(),
            mesh,
            loaded,
        })
    }

    /// One step on this rank's micro-batches; `rate` turns a peak learning rate into that of the step.
    ///
    /// # Errors
    /// A collective failed; or the loss or the gradient is not finite and the run's policy is to stop. The
    /// parameters are as before then, as they are where the policy is to skip and the report says so.
    pub fn step(&mut self, microbatches: &[Microbatch], rate: impl Fn(f64) -> f64, step: u64) -> Result<StepReport> {
        let mut report = self.accumulate(microbatches)?;
        for (what, value) in [("the loss", report.objective), ("the gradient norm", report.grad_norm)] {
            if !value.is_finite() {
                report.applied = false;
                if self.nan_policy == NanPolicy::Stop {
                    return Err(EngineError::NotFinite { step, what, value });
                }
            }
        }
        if !report.applied {
            return Ok(report);
        }
        if self.clip_grad > 0.0 {
            // torch.nn.utils.clip_grad_norm_ and Megatron: the coefficient never exceeds 1.
            let coefficient = self.clip_grad / (report.grad_norm + 1e-6);
            if coefficient < 1.0 {
                self.gradients.scale(coefficient)?;
            }
        }
        self.optimizer.step(&self.gradients, rate)?;
        Ok(report)
    }

    /// The loss over micro-batches of validation data, `(micro-batch, samples)` each; nothing is trained. Every
    /// rank calls it, with as few of them as its share of the data holds.
    ///
    /// # Errors
    /// A collective failed.
    pub fn evaluate(&self, microbatches: impl Iterator<Item = Result<(Microbatch, u64)>>) -> Result<Evaluation> {
        self.optimizer.settle()?;
        let mut sums = [0.0; 3];
        let mut rest = microbatches.peekable();
        // As many at once as keep the pipeline busy; no more, since their pictures take memory.
        let stages = self.loaded.stages.stages();
        let at_once = if stages == 1 { 1 } else { 4 * stages };
        while rest.peek().is_some() {
            // The stage with the vision encoder is the only one that knows of a broken picture.
            let batch = rest.by_ref().take(at_once).collect::<Result<Vec<_>>>();
            let batch = stages_succeed(&self.mesh, batch)?;
            for (microbatch, samples) in &batch {
                sums[1] += microbatch.labels as f64;
                sums[2] += *samples as f64;
            }
            let microbatches: Vec<_> = batch.iter().map(|(microbatch, _)| microbatch).filter(|it| it.labels > 0).collect();
            let (stage, chunks) = (self.pipeline.stage(), self.loaded.chunks.len());
            let actions = forward_schedule(stage, stages, chunks, microbatches.len());
            let mut pass = Validation {
                model: &self.loaded,
                shape: self.shape,
                microbatches: &microbatches,
                loss_sum: 0.0,
            };
            tch::no_grad(|| self.pipeline.run(&actions, &mut pass))?;
            sums[0] += pass.loss_sum;
        }
        let loss_sum = Tensor::from(sums[0]);
        let sums = Tensor::from_slice(&sums[1..]);
        self.sum_losses(&loss_sum)?;
        self.mesh.axis(Axis::Data).all_reduce(&sums, Reduce::Sum)?;
        Ok(Evaluation {
            loss_sum: loss_sum.double_value(&[]),
            labels: sums.double_value(&[0]) as u64,
            samples: sums.double_value(&[1]) as u64,
        })
    }

    /// Gradients of the global batch, reduced over all ranks; no parameter changes.
    ///
    /// # Errors
    /// A collective failed.
    pub fn accumulate(&mut self, microbatches: &[Microbatch]) -> Result<StepReport> {
        self.gradients.reset()?;
        let counts = self.count(microbatches)?;
        let [labels, tokens, zero_label_samples, text_only_microbatches] = counts.map(|count| count as u64);
        let ranks = self.mesh.axis(Axis::Data).size() as f64;
        let each = microbatches.len() as f64 * ranks;
        // Elsewhere there is nothing to learn. All ranks of a micro-batch know that, and leave it out.
        let microbatches: Vec<_> = microbatches.iter().filter(|microbatch| microbatch.labels > 0).collect();
        let denominator = |microbatch: &Microbatch| match self.normalization {
            LossNormalization::GlobalToken => labels as f64,
            LossNormalization::Microbatch => microbatch.labels as f64 * each,
        };
        let (stage, stages, chunks) = (self.pipeline.stage(), self.loaded.stages.stages(), self.loaded.chunks.len());
        let actions = schedule(stage, stages, chunks, microbatches.len());
        let mut pass = Training {
            model: &self.loaded,
            shape: self.shape,
            gradients: &mut self.gradients,
            optimizer: &self.optimizer,
            denominators: microbatches.iter().map(|microbatch| denominator(microbatch)).collect(),
            microbatches: &microbatches,
            loss_sum: 0.0,
            objective: 0.0,
        };
        self.stage_report = self.pipeline.run(&actions, &mut pass)?;
        let sums = Tensor::from_slice(&[pass.loss_sum, pass.objective]);
        self.gradients.reduce(&self.mesh)?;
        self.sum_losses(&sums)?;
        let (loss_sum, objective) = (sums.double_value(&[0]), sums.double_value(&[1]));
        Ok(StepReport {
            loss: if labels == 0 { 0.0 } else { loss_sum / labels as f64 },
            objective,
            grad_norm: self.gradients.norm(&self.mesh)?,
            labels,
            tokens,
            zero_label_samples,
            text_only_microbatches,
            applied: true,
        })
    }

    /// Sums what the last stages measured, for all ranks.
    fn sum_losses(&self, sums: &Tensor) -> Result<()> {
        self.mesh.replicas().all_reduce(sums, Reduce::Sum)?;
        // The other stages have measured nothing.
        Ok(self.mesh.axis(Axis::Pipeline).all_reduce(sums, Reduce::Sum)?)
    }

    /// Counts of the global batch, before the first forward pass: the loss is divided by them.
    fn count(&self, microbatches: &[Microbatch]) -> Result<[i64; 4]> {
        let mut counts = [0i64; 4];
        for microbatch in microbatches {
            counts[0] += microbatch.labels as i64;
            counts[1] += microbatch.tokens as i64;
            counts[2] += microbatch.zero_label_samples as i64;
            counts[3] += i64::from(microbatch.text_only);
        }
        let counts = Tensor::from_slice(&counts);
        self.mesh.axis(Axis::Data).all_reduce(&counts, Reduce::Sum)?;
        Ok([0, 1, 2, 3].map(|index| counts.int64_value(&[index])))
    }

    /// Logits `[b, s, v]` in fp32, on a rank that holds all layers.
    ///
    /// # Errors
    /// A collective failed, or this rank holds a part of the layers.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        self.optimizer.settle()?;
        let (model, head) = self.loaded.whole()?;
        head.logits(&model.forward(batch, None)?)
    }

    /// Gradient of each trainable parameter after [`Self::accumulate`]; `None` where no rank touched it. With a
    /// distributed optimizer only the values of [`Optimizer::pieces`] are sums over all ranks.
    pub fn gradients(&self) -> impl Iterator<Item = (&crate::parameters::Parameter, Option<&Tensor>)> {
        self.loaded.parameters.trainable().zip(self.gradients.touched())
    }

    /// Blocks until all parameters are those behind the last step: each rank may still be gathering what others have
    /// updated.
    ///
    /// # Errors
    /// A peer failed.
    pub fn settle(&self) -> Result<()> {
        self.optimizer.settle()
    }

    /// The parameters, settled. Where a peer failed, the next step says so.
    pub fn parameters(&self) -> &Parameters {
        let _ = self.optimizer.settle();
        &self.loaded.parameters
    }

    /// Every parameter of the whole model, on whichever rank it is.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.loaded.specs
    }

    /// What this rank's stage of the pipeline did in the last step.
    pub fn stage_report(&self) -> &StageReport {
        &self.stage_report
    }

    /// The optimizer, settled as [`Self::parameters`] are.
    pub fn optimizer(&self) -> &Optimizer {
        let _ = self.optimizer.settle();
        &self.optimizer
    }

    /// Whether this rank holds the vision encoder, and needs the pixels of its micro-batches.
    pub fn sees_pictures(&self) -> bool {
        self.loaded.chunks.iter().any(|chunk| chunk.model.sees_pictures())
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}

impl Microbatch {
    /// A micro-batch out of tensors, counted here.
    pub fn of(batch: Batch, tokens: u64) -> Self {
        let labelled_b = batch.labels_bs.ge(0).sum_dim_intlist([1].as_slice(), false, Kind::Int64);
        Self {
            labels: labelled_b.sum(Kind::Int64).int64_value(&[]) as u64,
            zero_label_samples: labelled_b.eq(0).sum(Kind::Int64).int64_value(&[]) as u64,
            tokens,
            text_only: batch.image_positions.numel() == 0,
            batch,
        }
    }

    /// A rank's part of a whole micro-batch, which keeps the counts of the whole.
    ///
    /// # Errors
    /// The rows cannot be cut evenly.
    pub fn part(self, zigzag: ZigZag) -> Result<Self> {
        Ok(Self {
            batch: context_part(self.batch, zigzag)?,
            ..self
        })
    }
}
