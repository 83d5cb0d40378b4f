//! Effective precision of each part of a model, as a value.

use crate::finetune::Finetune;
use crate::precision::{Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MixedPrecision, Precision};
use serde::Serialize;
use std::fmt;

/// Effective precision of all parts of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectivePrecision {
    /// One entry for each part, in the order of the forward pass.
    pub parts: Vec<PartPrecision>,
    /// Gradients, optimizer and loss scale.
    pub notes: Vec<String>,
}

/// Effective precision of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartPrecision {
    /// Part of the model.
    pub part: String,
    /// True if the part is trained.
    pub trained: bool,
    /// Data type of the weights; empty for a part without weights.
    pub weights: String,
    /// Precision of its computation.
    pub compute: String,
}

impl Finetune {
    /// Returns the effective precision of each part of the model.
    pub fn effective_precision(&self) -> EffectivePrecision {
        let plugin = self.trainer.mixed_precision();
        let dtype = plugin.precision.dtype().to_string();
        let model = self.model.description();
        let fp8 = plugin.fp8();
        let gemm = |in_fp8: bool, trained: bool| match fp8.filter(|_| in_fp8) {
            Some(fp8) => fp8_gemm(&fp8, trained),
            None => dtype.clone(),
        };
        let lora = self.peft.as_ref().map(|peft| peft.lora());
        let with = |what: &str| match plugin.precision {
            Precision::Fp32 => dtype.clone(),
            _ => format!("{dtype}, {what}"),
        };
        // Frozen weights in FP8 are kept in FP8 alone.
        let stored = |in_fp8: bool, trained: bool| match fp8.is_some() && in_fp8 && !trained {
            true => "float8_e4m3fn",
            false => dtype.as_str(),
        };
        let mut parts = Vec::new();
        let mut add = |part: &str, trained: bool, weights: &str, compute: String| {
            parts.push(PartPrecision {
                part: part.to_owned(),
                trained,
                weights: weights.to_owned(),
                compute,
            });
        };
        if let Some(vision) = &model.vision {
            let trained = !vision.frozen && !lora.is_some_and(|lora| lora.freeze_vision_model);
            let in_fp8 = plugin.fp8_vision_model;
            add("vision encoder", trained, stored(in_fp8, trained), gemm(in_fp8, trained));
        }
        if let Some(projector) = &model.projector {
            let (in_fp8, trained) = (plugin.fp8_vision_projection, !projector.frozen);
            add("projector", trained, stored(in_fp8, trained), gemm(in_fp8, trained));
        }
        if let Some(decoder) = &model.decoder {
            let trained = !decoder.frozen && !lora.is_some_and(|lora| lora.freeze_language_model);
            let layers = decoder.config.num_hidden_layers;
            let weights = match lora.and_then(|lora| lora.quantization) {
                Some(_) => "nf4",
                None => dtype.as_str(),
            };
            add("embedding", trained, &dtype, dtype.clone());
            match fp8 {
                Some(fp8) => {
                    let inner = (0..layers).filter(|layer| fp8.covers_layer(*layer, layers)).collect::<Vec<_>>();
                    let edges = (0..layers).filter(|layer| !fp8.covers_layer(*layer, layers)).collect::<Vec<_>>();
                    if !inner.is_empty() {
                        add(
                            &layers_name(&inner, layers),
                            trained,
                            stored(true, trained),
                            fp8_gemm(&fp8, trained),
                        );
                    }
                    if !edges.is_empty() {
                        add(&layers_name(&edges, layers), trained, &dtype, dtype.clone());
                    }
                }
                None => add(
                    &layers_name(&(0..layers).collect::<Vec<_>>(), layers),
                    trained,
                    weights,
                    dtype.clone(),
                ),
            }
            add("norms", trained, &dtype, with("float32 inside"));
            add("attention core", false, "", with("softmax in float32"));
            if lora.is_some() {
                add("adapters", true, &dtype, dtype.clone());
            }
            add("head", trained, &dtype, with("loss in float32"));
        }
        EffectivePrecision {
            parts,
            notes: notes(plugin),
        }
    }
}

/// Describes the GEMMs of an FP8 linear.
fn fp8_gemm(fp8: &Fp8, trained: bool) -> String {
    let gradients = match fp8.format {
        Fp8Format::Hybrid => "e5m2",
        Fp8Format::E4m3 => "e4m3",
    };
    let backward = match (trained, fp8.wgrad) {
        (true, true) => format!("dgrad, wgrad e4m3 x {gradients}"),
        (true, false) => format!("dgrad e4m3 x {gradients}, wgrad bfloat16"),
        // Frozen weights have no gradient.
        (false, _) => format!("dgrad e4m3 x {gradients}"),
    };
    let scaling = match (fp8.recipe, fp8.amax_compute_algo) {
        (Fp8Recipe::Delayed, Fp8AmaxComputeAlgo::Max) => format!("delayed, max of {} steps", fp8.amax_history_len),
        (Fp8Recipe::Delayed, Fp8AmaxComputeAlgo::MostRecent) => "delayed, most recent amax".to_owned(),
        (Fp8Recipe::Tensorwise, _) => "tensorwise".to_owned(),
        (Fp8Recipe::Blockwise, _) => "blockwise".to_owned(),
        (Fp8Recipe::Mxfp8, _) => "mxfp8".to_owned(),
    };
    format!("fprop e4m3, {backward}; {scaling}")
}

/// Names layers by ranges: `decoder layers 0-1, 30-31`.
fn layers_name(layers: &[usize], all: usize) -> String {
    if layers.len() == all {
        return "decoder linears".to_owned();
    }
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => ranges.push((layer, layer)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    format!("decoder linears {}", ranges.collect::<Vec<_>>().join(", "))
}

/// Describes gradients, optimizer and loss scale.
fn notes(plugin: &MixedPrecision) -> Vec<String> {
    let mut notes = vec![
        format!("gradients: accumulated in float32, reduced in {}", plugin.grad_reduce_dtype()),
        "optimizer: master weights and moments in float32".to_owned(),
    ];
    if let Some(scale) = plugin.loss_scale() {
        notes.push(match scale.constant {
            Some(constant) => format!("loss scale: {constant}, constant"),
            None => format!(
                "loss scale: starts at {}, at least {}, doubles after {} steps, hysteresis {}",
                scale.initial, scale.min, scale.window, scale.hysteresis
            ),
        });
    }
    if let Some(fp8) = plugin.fp8() {
        if fp8.param_gather {
            notes.push("parameter gather: FP8 for the linears in FP8".to_owned());
        }
        if fp8.emulate {
            notes.push("FP8 is emulated where the hardware has none".to_owned());
        }
    }
    notes
}

impl fmt::Display for EffectivePrecision {
    /// Writes a table, a line for each part and note.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&PartPrecision) -> usize| self.parts.iter().map(of).max().unwrap_or(0);
        let (part, weights) = (width(|part| part.part.len()), width(|part| part.weights.len()).max("weights".len()));
        write!(f, "{:part$}  {:weights$}  {:7}  computation", "part", "weights", "")?;
        for row in &self.parts {
            let state = match (row.weights.is_empty(), row.trained) {
                (true, _) => "",
                (false, true) => "trained",
                (false, false) => "frozen",
            };
            write!(f, "\n{:part$}  {:weights$}  {state:7}  {}", row.part, row.weights, row.compute)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}
