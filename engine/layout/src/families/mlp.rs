//! Projectors of linears with an activation between them: `transformers.LlavaMultiModalProjector`.

use super::family::ProjectorFamily;
use super::vision_rows::{LinearRow, VisionRows};
use crate::parameter::{Cut, Init, ParamSpec, Part};
use neva_schemas::{Projector, VisionPlacement};

/// The family: `mlp2x_gelu` of LLaVA-1.5, other numbers of linears, and a single one.
#[derive(Debug, Clone, Copy)]
pub struct Mlp;

impl ProjectorFamily for Mlp {
    fn parameters(&self, projector: &Projector, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let mut rows = VisionRows::new(Part::Projection, prefix, placement);
        linears(&mut rows, projector);
        rows.finish()
    }
}

/// Adds the linears `linear_1`, `linear_2` and so on. Initial values are those of `torch.nn.Linear`, with which
/// LLaVA starts its alignment. Pairs of linears are cut by columns and by rows; the last one of an odd number is replicated.
pub(super) fn linears(rows: &mut VisionRows<'_>, projector: &Projector) {
    let (count, output) = (projector.kind.linears(), projector.output_size);
    for number in 0..count {
        let input = match number {
            0 => projector.linear_input_size(),
            _ => output,
        };
        let cut = match number % 2 {
            1 => Cut::Row,
            _ if number + 1 < count => Cut::Column,
            _ => Cut::Replicate,
        };
        let init = Init::Uniform {
            bound: 1.0 / (input as f64).sqrt(),
        };
        let row = LinearRow {
            shape: [output, input],
            init,
            bias: projector.bias.then_some(init),
            cut,
            used: true,
        };
        rows.linear(&format!("linear_{}", number + 1), row);
    }
}
