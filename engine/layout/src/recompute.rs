//! Activation recomputation: layers that save only their input for the backward pass.

use neva_schemas::{MegatronStrategy, RecomputeGranularity, RecomputeMethod};
use serde::Serialize;
use std::ops::Range;

/// Layers that save only the input of the first one, or one layer that saves all activations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerGroup {
    /// The layers.
    pub layers: Range<usize>,
    /// Whether they are recomputed in the backward pass.
    pub recomputed: bool,
}

/// Groups the `layers` of a model chunk, or of the vision encoder.
pub fn layer_groups(strategy: &MegatronStrategy, layers: Range<usize>) -> Vec<LayerGroup> {
    let full = strategy.recompute_granularity == Some(RecomputeGranularity::Full);
    let number = strategy.recompute_num_layers.map_or(1, |number| number.max(1) as usize);
    let (group_size, recomputed) = match strategy.recompute_method.unwrap_or(RecomputeMethod::Uniform) {
        _ if !full => (1, 0),
        RecomputeMethod::Uniform => (number, layers.len()),
        RecomputeMethod::Block => (1, number),
    };
    let (first, end) = (layers.start, layers.end);
    let group = |start: usize| LayerGroup {
        layers: start..start.saturating_add(group_size).min(end),
        recomputed: start - first < recomputed,
    };
    layers.step_by(group_size).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formats groups, with recomputed layers in brackets.
    fn text(method: Option<RecomputeMethod>, number: Option<u32>, layers: Range<usize>) -> String {
        let strategy = MegatronStrategy {
            recompute_granularity: Some(RecomputeGranularity::Full),
            recompute_method: method,
            recompute_num_layers: number,
            ..MegatronStrategy::default()
        };
        let groups = layer_groups(&strategy, layers);
        let name = |LayerGroup { layers, recomputed }: &LayerGroup| {
            let layers: Vec<_> = layers.clone().map(|layer| layer.to_string()).collect();
            let layers = layers.join(" ");
            if *recomputed { format!("[{layers}]") } else { layers }
        };
        groups.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn groups_of_layers() {
        use RecomputeMethod::{Block, Uniform};
        assert_eq!(text(None, None, 0..3), "[0] [1] [2]");
        assert_eq!(text(Some(Uniform), Some(2), 3..8), "[3 4] [5 6] [7]");
        assert_eq!(text(Some(Uniform), Some(u32::MAX), 3..8), "[3 4 5 6 7]");
        assert_eq!(text(Some(Block), None, 4..7), "[4] 5 6");
        assert_eq!(text(Some(Block), Some(2), 4..7), "[4] [5] 6");
        assert_eq!(text(Some(Block), Some(9), 4..7), "[4] [5] [6]");
        assert_eq!(text(None, None, 2..2), "");
        let saved = layer_groups(&MegatronStrategy::default(), 0..2);
        assert!(saved.iter().all(|group| !group.recomputed && group.layers.len() == 1));
    }
}
