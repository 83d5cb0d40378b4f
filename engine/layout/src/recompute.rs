//! Which layers keep their hidden state alone for the backward pass.

use neva_schemas::{MegatronStrategy, RecomputeGranularity, RecomputeMethod};
use serde::Serialize;
use std::ops::Range;

/// Layers between whose ends nothing is kept, or one layer that keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerGroup {
    /// The layers.
    pub layers: Range<usize>,
    /// They are computed again in the backward pass.
    pub recomputed: bool,
}

/// How the `layers` of one section of a model, or of its vision encoder, are grouped.
pub fn layer_groups(strategy: &MegatronStrategy, layers: Range<usize>) -> Vec<LayerGroup> {
    let full = strategy.recompute_granularity == Some(RecomputeGranularity::Full);
    let number = strategy.recompute_num_layers.map_or(1, |number| number.max(1) as usize);
    let (at_once, recomputed) = match strategy.recompute_method.unwrap_or(RecomputeMethod::Uniform) {
        _ if !full => (1, 0),
        RecomputeMethod::Uniform => (number, layers.len()),
        RecomputeMethod::Block => (1, number),
    };
    let (first, end) = (layers.start, layers.end);
    let group = |start: usize| LayerGroup {
        layers: start..start.saturating_add(at_once).min(end),
        recomputed: start - first < recomputed,
    };
    layers.step_by(at_once).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups as text: layers that are computed again in brackets.
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
        let kept = layer_groups(&MegatronStrategy::default(), 0..2);
        assert!(kept.iter().all(|group| !group.recomputed && group.layers.len() == 1));
    }
}
