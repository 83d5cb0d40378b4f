//! One optimizer step as a value.

use super::batch_counts::BatchCounts;
use super::loaded::LoadedModel;
use super::microbatch::Microbatch;
use super::passes::{Boundary, Training};
use crate::batch::Batch;
use crate::comm::{Axis, Mesh, Reduce};
use crate::error::{EngineError, Result};
use crate::fp8::ScalingStates;
use crate::optim::{Gradients, LossScaleState, LossScaler, Optimizer, Partition};
use crate::parallel::{Pipeline, StageReport};
use crate::parameters::Parameters;
use crate::profile::phase;
use neva_layout::{ParamSpec, schedule};
use neva_schemas::{Finetune, LossNormalization, NanPolicy};
use tch::Tensor;

/// A model and its optimizer on one rank of a mesh.
#[derive(Debug)]
pub struct Trainer {
    pub(super) mesh: Mesh,
    pub(super) pipeline: Pipeline,
    pub(super) loaded: LoadedModel,
    pub(super) gradients: Gradients,
    pub(super) optimizer: Optimizer,
    /// Present with fp16.
    scaler: Option<LossScaler>,
    normalization: LossNormalization,
    nan_policy: NanPolicy,
    clip_grad: f64,
    pub(super) shape: Boundary,
    stage_report: StageReport,
    pub(super) batch_counts: BatchCounts,
    /// For each trainable parameter of this rank: true once it got a gradient.
    pub(super) touched: Vec<bool>,
}

/// Result of one step, the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean cross entropy over all labelled tokens of the global batch (NeMo's `reduced_train_loss`). `None` without
    /// labels.
    pub loss: Option<f64>,
    /// The differentiated loss: `loss`, or the mean of the microbatches' means. 0 without labels.
    pub objective: f64,
    /// Global L2 norm of the gradient before clipping. `None` without a loss.
    pub grad_norm: Option<f64>,
    /// Labelled tokens of the global batch.
    pub labels: u64,
    /// Positions of the global batch, without padding.
    pub tokens: u64,
    /// Samples of the global batch without labels.
    pub zero_label_samples: u64,
    /// Microbatches without images.
    pub text_only_microbatches: u64,
    /// Images of the global batch.
    pub images: u64,
    /// Positions of the global batch, with padding.
    pub positions: u64,
    /// Samples of the global batch; a packed row has several.
    pub samples: u64,
    /// False if the step was skipped because the loss or the gradient was not finite.
    pub applied: bool,
    /// True if the gradient overflowed fp16, and a smaller loss scale can prevent that.
    pub overflow: bool,
    /// The loss scale of the step, with fp16.
    pub loss_scale: Option<f64>,
}

impl Trainer {
    /// Creates the gradient buffers and the optimizer state of a model's trainable parameters.
    ///
    /// # Errors
    /// libtorch refused.
    pub fn new(finetune: &Finetune, loaded: LoadedModel, mesh: Mesh) -> Result<Self> {
        let (strategy, parameters) = (&finetune.trainer.strategy, &loaded.parameters);
        let partition = Partition::new(parameters, finetune, &mesh);
        let gradients = Gradients::new(parameters, &partition, strategy, &mesh)?;
        let mut optimizer = Optimizer::new(&finetune.optim, &strategy.ddp, parameters, &partition)?;
        if let Some(fp8) = &loaded.fp8 {
            optimizer.gather_in_fp8(parameters, &partition, fp8, &mesh)?;
        }
        if let Some(finish) = optimizer.finish_param_sync() {
            parameters.sync().connect(finish);
        }
        Ok(Self {
            gradients,
            optimizer,
            scaler: finetune.trainer.mixed_precision().loss_scale().map(LossScaler::new),
            normalization: finetune.trainer.loss_normalization,
            nan_policy: finetune.trainer.nan_policy,
            clip_grad: *finetune.optim.clip_grad(),
            pipeline: Pipeline::new(mesh.axis(Axis::Pipeline).clone(), loaded.stages.clone()),
            shape: Boundary::of(finetune, &mesh),
            stage_report: StageReport::default(),
            batch_counts: BatchCounts::default(),
            touched: vec![false; parameters.trainable().count()],
            mesh,
            loaded,
        })
    }

    /// Runs one step on this rank's microbatches. `rate` maps a peak learning rate to that of the step.
    ///
    /// # Errors
    /// A collective failed; or the loss or the gradient is not finite and the policy is to stop. The parameters do not
    /// change then, nor when the policy is to skip the step.
    pub fn step(&mut self, microbatches: &[Microbatch], rate: impl Fn(f64) -> f64, step: u64) -> Result<StepReport> {
        let mut report = self.accumulate(microbatches)?;
        if let Some(fp8) = &self.loaded.fp8 {
            fp8.finish_step(&self.mesh, step)?;
        }
        let norm = report.grad_norm.unwrap_or_default();
        if let Some(scaler) = &mut self.scaler {
            let overflowed = !norm.is_finite();
            report.overflow = overflowed && scaler.can_fall();
            scaler.update(overflowed);
            // An overflow of fp16 is no fault of the run, unless the loss itself is not finite.
            if overflowed && report.objective.is_finite() {
                report.applied = false;
                return Ok(report);
            }
        }
        for (what, value) in [("the loss", report.objective), ("the gradient norm", norm)] {
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
            let _clip = self.mesh.profiler().span(phase::CLIP);
            // torch.nn.utils.clip_grad_norm_ and Megatron: the coefficient never exceeds 1.
            let coefficient = self.clip_grad / (norm + 1e-6);
            if coefficient < 1.0 {
                self.gradients.scale(coefficient)?;
            }
        }
        let _optimizer = self.mesh.profiler().span(phase::OPTIMIZER);
        self.optimizer.step(&self.gradients, rate)?;
        if let Some(fp8) = self.loaded.fp8.as_ref().filter(|_| self.optimizer.gathers_in_fp8()) {
            fp8.note_gathered();
        }
        Ok(report)
    }

    /// Computes the gradients of the global batch, reduced over all ranks. No parameter changes.
    ///
    /// # Errors
    /// A collective failed.
    pub fn accumulate(&mut self, microbatches: &[Microbatch]) -> Result<StepReport> {
        let profiler = self.mesh.profiler().clone();
        {
            let _reset = profiler.span(phase::OPTIMIZER);
            self.gradients.reset();
        }
        let counts = self.count(microbatches)?;
        let [
            labels,
            tokens,
            zero_label_samples,
            text_only_microbatches,
            images,
            positions,
            samples,
        ] = counts.map(|count| count as u64);
        let ranks = self.mesh.axis(Axis::Data).size() as f64;
        let each = microbatches.len() as f64 * ranks;
        let all = microbatches;
        // All ranks of a microbatch know whether it has labels, and skip it if it has none.
        let microbatches: Vec<_> = microbatches.iter().filter(|microbatch| microbatch.labels > 0).collect();
        let denominator = |microbatch: &Microbatch| match self.normalization {
            LossNormalization::GlobalToken => labels as f64,
            LossNormalization::Microbatch => microbatch.labels as f64 * each,
        };
        let loss_scale = self.scaler.as_ref().map_or(1.0, LossScaler::scale);
        let (stage, stages, chunks) = (self.pipeline.stage(), self.loaded.stages.stages(), self.loaded.chunks.len());
        let actions = schedule(stage, stages, chunks, microbatches.len());
        let mut pass = Training {
            model: &self.loaded,
            shape: self.shape,
            gradients: &mut self.gradients,
            profiler: self.mesh.profiler(),
            denominators: microbatches.iter().map(|microbatch| denominator(microbatch)).collect(),
            microbatches: &microbatches,
            loss_sum: 0.0,
            objective: 0.0,
            loss_scale,
        };
        if let Some(fp8) = &self.loaded.fp8 {
            fp8.begin_passes()?;
        }
        let ran = self.pipeline.run(&actions, &mut pass);
        if let Some(fp8) = &self.loaded.fp8 {
            fp8.end_passes();
        }
        self.stage_report = ran?;
        let sums = Tensor::from_slice(&[pass.loss_sum, pass.objective]);
        let reduce = profiler.span(phase::REDUCE);
        self.gradients.reduce(&self.mesh)?;
        self.count_effects(all);
        self.sum_losses(&sums)?;
        drop(reduce);
        let (loss_sum, objective) = (sums.double_value(&[0]), sums.double_value(&[1]));
        let _clip = profiler.span(phase::CLIP);
        let mut norm = self.gradients.norm(&self.mesh)?;
        if self.scaler.is_some() && norm.is_finite() {
            self.gradients.scale(1.0 / loss_scale)?;
            norm /= loss_scale;
        }
        Ok(StepReport {
            loss: (labels > 0).then(|| loss_sum / labels as f64),
            objective,
            grad_norm: Some(norm).filter(|_| labels > 0),
            labels,
            tokens,
            zero_label_samples,
            text_only_microbatches,
            images,
            positions,
            samples,
            applied: true,
            overflow: false,
            loss_scale: self.scaler.as_ref().map(|_| loss_scale),
        })
    }

    /// Returns the state of the loss scale, with fp16.
    pub fn loss_scale(&self) -> Option<&LossScaleState> {
        self.scaler.as_ref().map(LossScaler::state)
    }

    /// Continues with the loss scale of a checkpoint.
    pub fn restore_loss_scale(&mut self, state: &LossScaleState) {
        if let Some(scaler) = &mut self.scaler {
            scaler.restore(state);
        }
    }

    /// Sums the losses of the last stages, on all ranks.
    pub(super) fn sum_losses(&self, sums: &Tensor) -> Result<()> {
        self.mesh.dp_cp_group().all_reduce(sums, Reduce::Sum)?;
        // The other stages contribute zeros.
        Ok(self.mesh.axis(Axis::Pipeline).all_reduce(sums, Reduce::Sum)?)
    }

    /// Sums the counts of the global batch before the first forward pass: the loss is divided by them.
    fn count(&self, microbatches: &[Microbatch]) -> Result<[i64; 7]> {
        let mut counts = [0i64; 7];
        let context_ranks = self.mesh.axis(Axis::Context).size() as i64;
        for microbatch in microbatches {
            counts[0] += microbatch.labels as i64;
            counts[1] += microbatch.tokens as i64;
            counts[2] += microbatch.zero_label_samples as i64;
            counts[3] += i64::from(microbatch.images == 0);
            counts[4] += microbatch.images as i64;
            counts[5] += microbatch.batch.input_ids_bs.numel() as i64 * context_ranks;
            counts[6] += microbatch.batch.segments.count() as i64;
        }
        let counts = Tensor::from_slice(&counts);
        self.mesh.axis(Axis::Data).all_reduce(&counts, Reduce::Sum)?;
        Ok([0, 1, 2, 3, 4, 5, 6].map(|index| counts.int64_value(&[index])))
    }

    /// Returns logits `[b, s, v]` in fp32, on a rank that holds all layers.
    ///
    /// # Errors
    /// A collective failed, or this rank holds only some layers.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        self.optimizer.finish_param_gather()?;
        let (model, head) = self.loaded.whole()?;
        head.logits(&model.forward(batch, None)?)
    }

    /// Iterates over the gradient of each trainable parameter after [`Self::accumulate`]; `None` if no rank touched it. With a
    /// distributed optimizer only the values of [`Optimizer::shards`] are sums over all ranks.
    pub fn gradients(&self) -> impl Iterator<Item = (&crate::parameters::Parameter, Option<&Tensor>)> {
        self.loaded.parameters.trainable().zip(self.gradients.touched())
    }

    /// Waits for the parameter gather of the last step: each rank may still be receiving shards that others have updated.
    ///
    /// # Errors
    /// A peer failed.
    pub fn finish_param_gather(&self) -> Result<()> {
        self.optimizer.finish_param_gather()
    }

    /// Returns the parameters, after their gather. If a peer failed, the next step reports it.
    pub fn parameters(&self) -> &Parameters {
        let _ = self.optimizer.finish_param_gather();
        &self.loaded.parameters
    }

    /// Returns the specs of all parameters of the whole model, including those on other ranks.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.loaded.specs
    }

    /// Returns the report of this rank's pipeline stage about the last step.
    pub fn stage_report(&self) -> &StageReport {
        &self.stage_report
    }

    /// Returns the scaling state of the linears that are computed in FP8, if any are.
    pub fn fp8(&self) -> Option<&ScalingStates> {
        self.loaded.fp8.as_ref()
    }

    /// Returns the optimizer, after the parameter gather.
    pub fn optimizer(&self) -> &Optimizer {
        let _ = self.optimizer.finish_param_gather();
        &self.optimizer
    }

    /// Returns true if this rank holds the vision encoder, which needs the pixels of its microbatches.
    pub fn needs_pixels(&self) -> bool {
        self.loaded.chunks.iter().any(|chunk| chunk.model.sees_images())
    }

    /// Returns the mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}
