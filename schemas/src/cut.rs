//! Validates that tensor parallelism divides the model's sizes.

use crate::description::ModelDescription;
use crate::strategy::VisionPlacement;
use crate::trainer::TrainerConfig;
use crate::validate::Problem;

/// A size of the model that is split over the tensor-parallel ranks.
struct SplitSize {
    name: &'static str,
    size: usize,
    /// With more ranks than this size, several ranks hold a copy of the same shard.
    copied: bool,
}

impl SplitSize {
    fn new(name: &'static str, size: usize) -> Self {
        let copied = false;
        Self { name, size, copied }
    }

    /// Returns true if `tp` ranks get equal shards.
    fn divides(&self, tp: usize) -> bool {
        self.size.is_multiple_of(tp) || self.copied && self.size > 0 && tp.is_multiple_of(self.size)
    }
}

/// Returns the decoder's sizes.
fn decoder(model: &ModelDescription) -> Vec<SplitSize> {
    let Some(decoder) = &model.decoder else { return Vec::new() };
    let text = &decoder.config;
    vec![
        SplitSize::new("num_attention_heads", text.num_attention_heads),
        SplitSize {
            copied: true,
            ..SplitSize::new("num_key_value_heads", text.num_key_value_heads)
        },
        SplitSize::new("intermediate_size", text.intermediate_size),
    ]
}

/// Returns the vision tower's sizes and the width of the projector.
fn vision(model: &ModelDescription) -> Vec<SplitSize> {
    let tower = model.vision.iter().flat_map(|tower| {
        [
            SplitSize::new("vision_config.num_attention_heads", tower.config.num_attention_heads),
            SplitSize::new("vision_config.intermediate_size", tower.config.intermediate_size),
        ]
    });
    let projector = model.projector.iter();
    tower
        .chain(projector.map(|projector| SplitSize::new("text_config.hidden_size", projector.output_size)))
        .collect()
}

/// Appends an error for each size that cannot be split into equal shards.
pub(crate) fn validate_cut(model: &ModelDescription, trainer: &TrainerConfig, path: &str, problems: &mut Vec<Problem>) {
    let strategy = &trainer.strategy;
    let tp = strategy.tensor_model_parallel_size as usize;
    if tp < 2 {
        return;
    }
    let nearest = nearest(model, trainer, tp);
    let misfits = |sizes: Vec<SplitSize>| sizes.into_iter().filter(|size| !size.divides(tp));
    let mut whole = true;
    for SplitSize { name, size, .. } in misfits(decoder(model)) {
        whole = false;
        let problem = Problem::error(
            format!("{path}.trainer.strategy.tensor_model_parallel_size"),
            format!("tensor parallelism over {tp} ranks cannot cut `{name}` {size} evenly"),
        );
        problems.push(problem.help(match nearest {
            (nearest, true) => format!("nearest that fits {} ranks: {nearest}", trainer.world_size()),
            (nearest, false) => format!("nearest that fits: {nearest}"),
        }));
    }
    if strategy.vision_placement != VisionPlacement::Cut {
        return;
    }
    let other_tp = format!("tensor_model_parallel_size: {}", nearest.0);
    let shared = whole.then(|| "vision_placement: shared".to_owned());
    let choices: Vec<_> = [other_tp].into_iter().chain(shared).collect();
    for SplitSize { name, size, .. } in misfits(vision(model)) {
        let problem = Problem::error(
            format!("{path}.trainer.strategy.vision_placement"),
            format!("`vision_placement: cut` over {tp} tensor-parallel ranks cannot cut `{name}` {size} evenly"),
        );
        problems.push(problem.help(format!("nearest that fits: {}", choices.join(", or "))));
    }
}

/// Returns the valid number of tensor-parallel ranks that is nearest to `tp`, the smaller of two. The flag is true if it
/// also divides the run's ranks into whole copies of the model.
fn nearest(model: &ModelDescription, trainer: &TrainerConfig, tp: usize) -> (usize, bool) {
    let strategy = &trainer.strategy;
    let others = u64::from(strategy.context_parallel_size) * u64::from(strategy.pipeline_model_parallel_size);
    let cut = strategy.vision_placement == VisionPlacement::Cut;
    let even = |tp: &usize| {
        let sizes = decoder(model).into_iter().chain(vision(model).into_iter().filter(|_| cut));
        sizes.into_iter().all(|size| size.divides(*tp))
    };
    let ranks = trainer.world_size();
    let whole = |tp: &usize| ranks.is_multiple_of(others.max(1).saturating_mul(*tp as u64));
    // Each head is on one rank, so there are at most as many ranks. The search is bounded if a file asks for billions.
    let heads = model.decoder.as_ref().map_or(1, |decoder| decoder.config.num_attention_heads);
    let most = heads.min(1024);
    let all = || (1..=most).filter(even);
    let distance = |other: &usize| (other.abs_diff(tp), *other);
    match all().filter(whole).min_by_key(distance) {
        Some(nearest) => (nearest, true),
        None => (all().min_by_key(distance).unwrap_or(1), false),
    }
}
