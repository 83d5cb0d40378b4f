//! What tensor parallelism cuts must divide.

use crate::finetune::Finetune;
use crate::strategy::VisionPlacement;
use crate::validate::Problem;

/// A size of the model that is cut into one part for each tensor-parallel rank.
struct Part {
    name: &'static str,
    size: usize,
}

impl Part {
    /// Whether `tp` ranks get equal parts of it.
    fn divides(&self, tp: usize) -> bool {
        // Of more ranks than key and value heads, several hold the same head.
        let copied = self.name == "num_key_value_heads" && self.size > 0 && tp.is_multiple_of(self.size);
        self.size.is_multiple_of(tp) || copied
    }
}

fn parts<const N: usize>(parts: [(&'static str, usize); N]) -> [Part; N] {
    parts.map(|(name, size)| Part { name, size })
}

fn language(finetune: &Finetune) -> [Part; 3] {
    let text = &finetune.model.llava().text_config;
    parts([
        ("num_attention_heads", text.num_attention_heads),
        ("num_key_value_heads", text.num_key_value_heads),
        ("intermediate_size", text.intermediate_size),
    ])
}

/// The vision encoder's sizes, and the width of the projector.
fn vision(finetune: &Finetune) -> [Part; 3] {
    let model = finetune.model.llava();
    parts([
        ("vision_config.num_attention_heads", model.vision_config.num_attention_heads),
        ("vision_config.intermediate_size", model.vision_config.intermediate_size),
        ("text_config.hidden_size", model.text_config.hidden_size),
    ])
}

/// Whether every rank gets equal parts of all that is cut.
pub(crate) fn validate_cut(finetune: &Finetune, path: &str, problems: &mut Vec<Problem>) {
    let strategy = &finetune.trainer.strategy;
    let tp = strategy.tensor_model_parallel_size as usize;
    if tp < 2 {
        return;
    }
    for Part { name, size } in language(finetune).iter().filter(|part| !part.divides(tp)) {
        let nearest = nearest(finetune, tp).map(|nearest| format!("nearest that fits {} ranks: {nearest}", finetune.trainer.world_size()));
        problems.push(
            Problem::error(
                format!("{path}.trainer.strategy.tensor_model_parallel_size"),
                format!("tensor parallelism over {tp} ranks cannot cut `{name}` {size} evenly"),
            )
            .help(nearest.unwrap_or_else(|| format!("use a divisor of {size}"))),
        );
    }
    if strategy.vision_placement != VisionPlacement::Cut {
        return;
    }
    let fewer = nearest(finetune, tp).map(|tp| format!("tensor_model_parallel_size: {tp}"));
    let whole = language(finetune).iter().all(|part| part.divides(tp));
    let choices: Vec<_> = fewer
        .into_iter()
        .chain(whole.then(|| "vision_placement: shared".to_owned()))
        .collect();
    for Part { name, size } in vision(finetune).iter().filter(|part| !part.divides(tp)) {
        let problem = Problem::error(
            format!("{path}.trainer.strategy.vision_placement"),
            format!("`vision_placement: cut` over {tp} tensor-parallel ranks cannot cut `{name}` {size} evenly"),
        );
        problems.push(match choices.as_slice() {
            [] => problem,
            choices => problem.help(format!("nearest that fits: {}", choices.join(", or "))),
        });
    }
}

/// The number of tensor-parallel ranks nearest to `tp`, the smaller of two, that cuts everything evenly and makes up
/// whole copies of the model out of the run's ranks.
fn nearest(finetune: &Finetune, tp: usize) -> Option<usize> {
    let strategy = &finetune.trainer.strategy;
    let others = u64::from(strategy.context_parallel_size) * u64::from(strategy.pipeline_model_parallel_size);
    let ranks = finetune.trainer.world_size();
    let cut = strategy.vision_placement == VisionPlacement::Cut;
    let fits = |tp: &usize| {
        let parts = language(finetune).into_iter().chain(vision(finetune).into_iter().filter(|_| cut));
        ranks.is_multiple_of(others.max(1) * *tp as u64) && parts.into_iter().all(|part| part.divides(*tp))
    };
    // No more ranks than heads, each of which is on one rank; and no endless search where a file asks for billions.
    let most = finetune.model.llava().text_config.num_attention_heads.min(1024);
    (1..=most).filter(fits).min_by_key(|other| (other.abs_diff(tp), *other))
}
