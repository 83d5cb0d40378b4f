//! Parameters of an adapter.

use super::LinearAdapter;
use super::module::{Linear, Module};
use crate::parameter::{Cut, Init, ParamSpec, Part};
use neva_schemas::{LoRA, LoraInit};

impl Module<'_> {
    /// Adds the parameters of the module's adapters to `rows`. Returns the adapter of each of its linears.
    pub(super) fn add_rows(&self, lora: &LoRA, rank: usize, scale: f64, rows: &mut Vec<ParamSpec>) -> Vec<(String, LinearAdapter)> {
        let a = format!("{}.lora_A.weight", self.saved_as);
        let outputs = self.linears.iter().map(|linear| linear.weight.shape[0]).sum();
        let mut adapters = Vec::with_capacity(self.linears.len());
        for (index, linear) in self.linears.iter().enumerate() {
            let [out, input] = [linear.weight.shape[0], linear.weight.shape[1]];
            let (name, row) = (&linear.module.linear, linear.weight.cut == Cut::Row);
            if index == 0 {
                let cut = if row { Cut::Row } else { Cut::Replicate };
                let init = init(lora.lora_a_init, input, rank);
                rows.push(adapter(*linear, &a, &[rank, input], cut, None, init));
            }
            // What belongs to the rows of the weight is cut as they are.
            let cut = if row { Cut::Replicate } else { linear.weight.cut };
            let heads = linear.weight.heads;
            let b = format!("{name}.lora_B.weight");
            let init = init(lora.lora_b_init, rank, outputs);
            rows.push(adapter(*linear, &b, &[out, rank], cut, heads, init));
            let magnitude = lora.use_dora.then(|| format!("{name}.lora_magnitude_vector"));
            if let Some(magnitude) = &magnitude {
                rows.push(adapter(*linear, magnitude, &[out], cut, heads, Init::RowNorms));
            }
            let a = a.clone();
            adapters.push((
                name.clone(),
                LinearAdapter {
                    a,
                    b,
                    rank,
                    scale,
                    magnitude,
                },
            ));
        }
        adapters
    }
}

/// Returns the initial values of a matrix `[outputs, inputs]`.
fn init(init: LoraInit, inputs: usize, outputs: usize) -> Init {
    match init {
        LoraInit::Zero => Init::Zeros,
        LoraInit::Xavier => Init::Normal {
            std: (2.0 / (inputs + outputs) as f64).sqrt(),
        },
        LoraInit::Kaiming => Init::Uniform {
            bound: 1.0 / (inputs as f64).sqrt(),
        },
        LoraInit::Normal => Init::Normal { std: 0.2 },
    }
}

/// Returns a parameter of the adapter of `linear`.
fn adapter(linear: Linear<'_>, name: &str, shape: &[usize], cut: Cut, heads: Option<usize>, init: Init) -> ParamSpec {
    ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        init,
        cut,
        heads,
        stage: linear.weight.stage,
        part: Part::Adapter,
        adapts: Some(linear.weight.part),
        lora: None,
        partial_sum: linear.module.partial_sum.if_replicated(cut),
        used: linear.weight.used,
    }
}
