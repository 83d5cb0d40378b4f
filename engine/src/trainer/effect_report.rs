//! Report of what a run did: products by data type, attention kernels, adapters, gradients, packing. Its numbers are sums over
//! all ranks.

use super::batch_counts::BatchCounts;
use super::microbatch::Microbatch;
use super::step::Trainer;
use crate::comm::{Axis, Reduce};
use crate::effects::{AttentionKernel, GemmGroup, GemmKind};
use crate::error::Result;
use neva_kernels::Kernels;
use neva_kernels::source::KERNELS;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use tch::Tensor;

/// Format number of `effects.json`.
pub const EFFECTS_FORMAT: u32 = 1;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectReport {
    /// Format number, [`EFFECTS_FORMAT`].
    pub format: u32,
    /// Products of linears by group and data type; groups and types without any are left out.
    pub gemms: Vec<GemmEffect>,
    /// Operations of the model in training by `neva_layout::ModelFlops`, without recomputation, padding and validation.
    pub model_flops: f64,
    /// FP8 share of the operations of the base linears of the language model's layers; 0 without any.
    pub fp8_share: f64,
    /// Kernels that computed attention cores, the vision encoder's included.
    pub attention: Vec<AttentionEffect>,
    /// Calls of fused kernels of GPUs; none on CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fused_kernels: Vec<KernelEffect>,
    /// Why the first rank's GPU has no fused kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fused_kernels_missing: Option<&'static str>,
    /// Positions whose last hidden states were computed.
    pub last_hidden_states: LastHiddenStatesEffect,
    /// Adapters by the names of their linears.
    pub adapters: AdapterEffects,
    /// Trained parameters that the forward pass uses.
    pub gradients: GradientEffects,
    /// Rows of the training batches.
    pub packing: PackingEffect,
}

/// Products of one group of linears in one data type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GemmEffect {
    /// Group of linears.
    pub group: &'static str,
    /// Data type of the operands.
    pub kind: &'static str,
    /// Floating point operations of forward and backward passes, recomputation and validation included.
    pub flops: f64,
    /// Share of the group's operations.
    pub share: f64,
}

/// Calls of one attention kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttentionEffect {
    /// Kernel.
    pub kernel: &'static str,
    /// Setting `attention_backend` that asks for it.
    #[serde(skip)]
    pub backend: &'static str,
    /// Calls on all ranks.
    pub calls: f64,
}

/// Calls of one fused kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelEffect {
    /// Kernel.
    pub kernel: &'static str,
    /// Calls on all ranks.
    pub calls: f64,
}

/// Positions whose last hidden states were computed: those with labels, because the loss reads no others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastHiddenStatesEffect {
    /// Share of the positions of the batches, with padding; 0 without a batch that has labels.
    pub share: f64,
    /// Why the last layer computes all positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_because: Option<&'static str>,
}

/// Adapters of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterEffects {
    /// Linears whose adapter is attached.
    pub attached: Vec<String>,
    /// Linears whose adapter is not.
    pub missing: Vec<String>,
    /// Parameters of adapters that never got a gradient.
    pub without_gradient: Vec<String>,
}

/// Gradients of the trained parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GradientEffects {
    /// Number of trained parameters.
    pub trained: usize,
    /// Names of those that never got a gradient.
    pub without: Vec<String>,
}

/// Rows of the training batches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackingEffect {
    /// Samples.
    pub samples: f64,
    /// Rows.
    pub rows: f64,
    /// Share of the positions that hold a token or an image feature; 0 without any.
    pub fill: f64,
    /// Samples that were truncated.
    pub truncated: f64,
    /// Samples that are longer than a packed row and were left out.
    pub left_out: f64,
}

impl Trainer {
    /// Reports what was done so far. Every rank calls it.
    ///
    /// # Errors
    /// A collective failed.
    pub fn effects(&self) -> Result<EffectReport> {
        let effects = self.loaded.parameters.effects();
        let BatchCounts {
            samples,
            rows,
            tokens,
            positions,
            truncated,
            left_out,
            ..
        } = self.batch_counts;
        let (linears, trained) = (&self.loaded.adapted, &self.loaded.trained);
        let attached = effects.adapted();
        let touched: BTreeSet<_> = (self.loaded.parameters.trainable().zip(&self.touched))
            .filter(|(_, touched)| **touched)
            .map(|(parameter, _)| &parameter.spec.name)
            .collect();
        let flags = (linears.iter().map(|linear| attached.contains(linear))).chain(trained.iter().map(|(name, _)| touched.contains(name)));
        let numbers: Vec<_> = (effects.flops().into_iter())
            .chain(effects.attention())
            .chain(Kernels::calls_of_process())
            .chain([samples, rows, tokens, positions, truncated, left_out])
            .chain(effects.outputs())
            .chain(flags.map(u64::from))
            .map(|number| number as f64)
            .chain([self.model_flops()])
            .collect();
        let sums = Tensor::f_from_slice(&numbers)?;
        self.mesh.world().all_reduce(&sums, Reduce::Sum)?;
        let sums = Vec::<f64>::try_from(&sums)?;
        let (flops, rest) = sums.split_at(effects.flops().len());
        let (attention, rest) = rest.split_at(AttentionKernel::ALL.len());
        let (fused, rest) = rest.split_at(KERNELS.len());
        let (batches, rest) = rest.split_at(6);
        let (outputs, rest) = rest.split_at(2);
        // The ranks of one copy of the model have the same batches.
        let copies = (self.mesh.world().size() / self.mesh.axis(Axis::Data).size()) as f64;
        let (attached, rest) = rest.split_at(linears.len());
        let (touched, model_flops) = rest.split_at(trained.len());
        let gemms = gemms(flops);
        let fp8 = [GemmKind::Fp8, GemmKind::Fp8Emulated].map(GemmKind::name);
        let fp8 = |gemm: &&GemmEffect| gemm.group == GemmGroup::Decoder.name() && fp8.contains(&gemm.kind);
        let named = |wanted: bool| {
            let names = linears.iter().zip(attached).filter(move |(_, sum)| (**sum > 0.0) == wanted);
            names.map(|(name, _)| name.clone()).collect()
        };
        let without = || {
            trained
                .iter()
                .zip(touched)
                .filter(|(_, sum)| **sum == 0.0)
                .map(|(parameter, _)| parameter)
        };
        Ok(EffectReport {
            format: EFFECTS_FORMAT,
            model_flops: model_flops.iter().sum(),
            // The sum of no share is -0.
            fp8_share: gemms.iter().filter(fp8).map(|gemm| gemm.share).sum::<f64>() + 0.0,
            gemms,
            attention: (AttentionKernel::ALL.iter().zip(attention).filter(|(_, calls)| **calls > 0.0))
                .map(|(kernel, calls)| AttentionEffect {
                    kernel: kernel.name(),
                    backend: kernel.backend(),
                    calls: *calls,
                })
                .collect(),
            fused_kernels: (KERNELS.iter().zip(fused).filter(|(_, calls)| **calls > 0.0))
                .map(|(kernel, calls)| KernelEffect { kernel, calls: *calls })
                .collect(),
            fused_kernels_missing: Kernels::missing(),
            last_hidden_states: LastHiddenStatesEffect {
                share: if outputs[1] > 0.0 { outputs[0] / outputs[1] } else { 0.0 },
                all_because: self.loaded.last_hidden_states.all(),
            },
            adapters: AdapterEffects {
                attached: named(true),
                missing: named(false),
                without_gradient: without().filter(|(_, adapter)| *adapter).map(|(name, _)| name.clone()).collect(),
            },
            gradients: GradientEffects {
                trained: trained.len(),
                without: without().map(|(name, _)| name.clone()).collect(),
            },
            packing: PackingEffect {
                samples: batches[0] / copies,
                rows: batches[1] / copies,
                fill: if batches[3] > 0.0 { batches[2] / batches[3] } else { 0.0 },
                truncated: batches[4] / copies,
                left_out: batches[5] / copies,
            },
        })
    }

    /// Returns the operations of the model for this rank's samples; 0 if another rank that trains the same samples counts
    /// them.
    pub(super) fn model_flops(&self) -> f64 {
        if self.counts_samples() {
            self.batch_counts.model_flops
        } else {
            0.0
        }
    }

    /// Returns whether this rank is the first of those that train the same samples.
    pub(super) fn counts_samples(&self) -> bool {
        [Axis::Tensor, Axis::Context, Axis::Pipeline]
            .iter()
            .all(|axis| self.mesh.axis(*axis).rank() == 0)
    }

    /// Counts the batches of a step, and the parameters that got a gradient in it.
    pub(super) fn count_effects(&mut self, microbatches: &[Microbatch]) {
        let context_ranks = self.mesh.axis(Axis::Context).size() as u64;
        microbatches
            .iter()
            .for_each(|microbatch| self.batch_counts.add(microbatch, context_ranks, &self.loaded.flops));
        let now = self.gradients.touched().map(|gradient| gradient.is_some());
        self.touched.iter_mut().zip(now).for_each(|(touched, now)| *touched |= now);
    }
}

/// Returns the products by group and data type.
fn gemms(flops: &[f64]) -> Vec<GemmEffect> {
    let groups = GemmGroup::ALL.iter().zip(flops.chunks(GemmKind::ALL.len()));
    let of_group = |(group, flops): (&GemmGroup, &[f64])| {
        let (group, total) = (group.name(), flops.iter().sum::<f64>());
        let kinds = GemmKind::ALL.iter().zip(flops.to_vec()).filter(|(_, flops)| *flops > 0.0);
        kinds.map(move |(kind, flops)| GemmEffect {
            group,
            kind: kind.name(),
            flops,
            share: flops / total,
        })
    };
    groups.flat_map(of_group).collect()
}

impl fmt::Display for EffectReport {
    /// Writes the table of the end of a run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "what ran")?;
        let mut line = |name: &str, text: String| writeln!(f, "{name:<22}{text}");
        for group in GemmGroup::ALL {
            let kinds = self.gemms.iter().filter(|gemm| gemm.group == group.name());
            let kinds: Vec<_> = kinds.map(|gemm| format!("{} {:.1} %", gemm.kind, 100.0 * gemm.share)).collect();
            if !kinds.is_empty() {
                line(group.name(), kinds.join(", "))?;
            }
        }
        let kernels: Vec<_> = self.attention.iter().map(|attention| attention.kernel).collect();
        if !kernels.is_empty() {
            line("attention", kernels.join(", "))?;
        }
        let fused: Vec<_> = self.fused_kernels.iter().map(|fused| fused.kernel).collect();
        if let Some(reason) = self.fused_kernels_missing {
            line("fused kernels", format!("none: {reason}"))?;
        } else if !fused.is_empty() {
            line("fused kernels", fused.join(", "))?;
        }
        let LastHiddenStatesEffect { share, all_because } = &self.last_hidden_states;
        let positions = match all_because {
            Some(reason) => format!("all positions, because of {reason}"),
            None => format!("{:.1} % of the positions, those with labels", 100.0 * share),
        };
        line("last hidden states", positions)?;
        let AdapterEffects { attached, missing, .. } = &self.adapters;
        if attached.len() + missing.len() > 0 {
            line(
                "adapters attached",
                format!("{} of {}", attached.len(), attached.len() + missing.len()),
            )?;
        }
        let GradientEffects { trained, without } = &self.gradients;
        line(
            "parameters updated",
            format!("{} of {trained} got a gradient", trained - without.len()),
        )?;
        let PackingEffect {
            samples,
            rows,
            fill,
            truncated,
            left_out,
        } = self.packing;
        let counted = |count: f64, what: &str| match count > 0.0 {
            true => format!(", {count} samples {what}"),
            false => String::new(),
        };
        let (each, filled) = (samples / rows.max(1.0), 100.0 * fill);
        let (truncated, left_out) = (counted(truncated, "truncated"), counted(left_out, "left out"));
        line("rows", format!("{each:.2} samples each, {filled:.1} % filled{truncated}{left_out}"))
    }
}
