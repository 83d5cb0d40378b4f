//! What is wrong with a run that only the table of its model's parameters tells: which modules get adapters.

use neva_layout::{llava_parameters, lora_adapters};
use neva_schemas::{Experiment, Finetune, Peft, Problem, Run, Severity, Validate as _, Work};

/// Layers of a model whose modules are looked through; the rank of a larger one tells.
const MOST_LAYERS: usize = 1000;

/// Modules that NeMo's default names for models which have them in place of `linear_qkv`.
const OF_OTHER_MODELS: [&str; 2] = ["linear_q", "linear_kv"];

/// All problems of a run.
pub(crate) fn problems(run: &Run) -> Vec<Problem> {
    let mut problems = run.problems("");
    // The table of a model that makes no sense would not, either.
    if problems.iter().all(|problem| problem.severity != Severity::Error) {
        problems.extend(of_targets(&run.finetune, "finetune.peft"));
    }
    problems
}

/// All problems of an experiment.
pub(crate) fn problems_of_tasks(experiment: &Experiment) -> Vec<Problem> {
    let mut problems = experiment.problems("");
    if problems.iter().all(|problem| problem.severity != Severity::Error) {
        let targets = experiment.tasks.iter().filter_map(|(name, task)| match &task.task {
            Work::Finetune(run) => Some(of_targets(&run.finetune, &format!("tasks.{name}.task.finetune.peft"))),
            _ => None,
        });
        problems.extend(targets.flatten());
    }
    problems
}

/// What is wrong with the targets of a valid run's adapters; `path` is that of the adapters' settings.
fn of_targets(finetune: &Finetune, path: &str) -> Vec<Problem> {
    let (Some(lora), model) = (finetune.peft.as_ref().map(Peft::lora), finetune.model.llava()) else {
        return Vec::new();
    };
    if model.text_config.num_hidden_layers.max(model.vision_config.num_hidden_layers) > MOST_LAYERS {
        return Vec::new();
    }
    let parameters = llava_parameters(model, finetune.trainer.strategy.vision_placement);
    let adapters = match lora_adapters(model, &parameters, lora, path) {
        Ok(adapters) => adapters,
        Err(problems) => return problems,
    };
    let last = |pattern: &String| pattern.rsplit('.').next().unwrap_or_default().to_owned();
    let unknown = adapters
        .unmatched
        .iter()
        .filter(|pattern| !OF_OTHER_MODELS.contains(&last(pattern).as_str()));
    unknown
        .map(|pattern| {
            Problem::warning(format!("{path}.target_modules"), format!("no module matches {pattern:?}"))
                .help("take it out, or name a module of the model: linear_qkv, linear_proj, linear_fc1, linear_fc2, or q_proj and the like")
        })
        .collect()
}
