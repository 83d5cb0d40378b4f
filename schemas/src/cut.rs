//! What tensor parallelism cuts must divide.

use crate::finetune::Finetune;
use crate::strategy::VisionPlacement;
use crate::validate::Problem;

/// A size of the model that is cut into one part for each tensor-parallel rank.
struct Part {
    name: &'static str,
    size: usize,
    /// Of more ranks than there are, several hold a copy of the same one.
    copied: bool,
}

impl Part {
    fn new(name: &'static str, size: usize) -> Self {
        let copied = false;
        Self { name, size, copied }
    }

    /// Whether `tp` ranks get equal parts of it.
    fn divides(&self, tp: usize) -> bool {
        self.size.is_multiple_of(tp) || self.copied && self.size > 0 && tp.is_multiple_of(self.size)
    }
}

fn language(finetune: &Finetune) -> [Part; 3] {
    let text = &finetune.model.llava().text_config;
    [
        Part::new("num_attention_heads", text.num_attention_heads),
        Part {
            copied: true,
            ..Part::new("num_key_value_heads", text.num_key_value_heads)
        },
        Part::new("intermediate_size", text.intermediate_size),
    ]
}

/// The vision encoder's sizes, and the width of the projector.
fn vision(finetune: &Finetune) -> [Part; 3] {
    let model = finetune.model.llava();
    [
        Part::new("vision_config.num_attention_heads", model.vision_config.num_attention_heads),
        Part::new("vision_config.intermediate_size", model.vision_config.intermediate_size),
        Part::new("text_config.hidden_size", model.text_config.hidden_size),
    ]
}

/// Whether every rank gets equal parts of all that is cut.
pub(crate) fn validate_cut(finetune: &Finetune, path: &str, problems: &mut Vec<Problem>) {
    let strategy = &finetune.trainer.strategy;
    let tp = strategy.tensor_model_parallel_size as usize;
    if tp < 2 {
        return;
    }
    let nearest = nearest(finetune, tp);
    let misfits = |parts: [Part; 3]| parts.into_iter().filter(|part| !part.divides(tp));
    let mut whole = true;
    for Part { name, size, .. } in misfits(language(finetune)) {
        whole = false;
        let problem = Problem::error(
            format!("{path}.trainer.strategy.tensor_model_parallel_size"),
            format!("tensor parallelism over {tp} ranks cannot cut `{name}` {size} evenly"),
        );
        problems.push(problem.help(match nearest {
            (nearest, true) => format!("nearest that fits {} ranks: {nearest}", finetune.trainer.world_size()),
            (nearest, false) => format!("nearest that fits: {nearest}"),
        }));
    }
    if strategy.vision_placement != VisionPlacement::Cut {
        return;
    }
    let other_tp = format!("tensor_model_parallel_size: {}", nearest.0);
    let shared = whole.then(|| "vision_placement: shared".to_owned());
    let choices: Vec<_> = [other_tp].into_iter().chain(shared).collect();
    for Part { name, size, .. } in misfits(vision(finetune)) {
        let problem = Problem::error(
            format!("{path}.trainer.strategy.vision_placement"),
            format!("`vision_placement: cut` over {tp} tensor-parallel ranks cannot cut `{name}` {size} evenly"),
        );
        problems.push(problem.help(format!("nearest that fits: {}", choices.join(", or "))));
    }
}

/// The number of tensor-parallel ranks nearest to `tp`, the smaller of two, that cuts everything evenly and makes up
/// whole copies of the model out of the run's ranks, where any does; and whether it does.
fn nearest(finetune: &Finetune, tp: usize) -> (usize, bool) {
    let strategy = &finetune.trainer.strategy;
    let others = u64::from(strategy.context_parallel_size) * u64::from(strategy.pipeline_model_parallel_size);
    let cut = strategy.vision_placement == VisionPlacement::Cut;
    let even = |tp: &usize| {
        let parts = language(finetune).into_iter().chain(vision(finetune).into_iter().filter(|_| cut));
        parts.into_iter().all(|part| part.divides(*tp))
    };
    let ranks = finetune.trainer.world_size();
    let whole = |tp: &usize| ranks.is_multiple_of(others.max(1).saturating_mul(*tp as u64));
    // No more ranks than heads, each of which is on one rank; and no endless search where a file asks for billions.
    let most = finetune.model.llava().text_config.num_attention_heads.min(1024);
    let all = || (1..=most).filter(even);
    let distance = |other: &usize| (other.abs_diff(tp), *other);
    match all().filter(whole).min_by_key(distance) {
        Some(nearest) => (nearest, true),
        None => (all().min_by_key(distance).unwrap_or(1), false),
    }
}
