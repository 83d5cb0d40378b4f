//! Problems of a run that only its model's parameter table shows: adapter targets that match no module.

use neva_layout::{Families, lora_adapters, quantization_problem};
use neva_schemas::{ExperimentConfig, Finetune, Peft, Problem, Run, Severity, TaskSpec, Validate as _};

/// Largest model, in layers, whose modules are checked here; for a larger one the ranks report the problem.
const MAX_LAYERS: usize = 1000;

/// Modules in NeMo's default targets that other models have instead of `linear_qkv`.
const MODULES_OF_OTHER_MODELS: [&str; 2] = ["linear_q", "linear_kv"];

/// Returns all problems of a run.
pub(crate) fn problems(run: &Run) -> Vec<Problem> {
    let mut problems = run.problems("");
    // An invalid model has no parameter table to check.
    if problems.iter().all(|problem| problem.severity != Severity::Error) {
        problems.extend(target_problems(&run.finetune, "finetune.peft"));
    }
    problems
}

/// Returns all problems of an experiment.
pub(crate) fn experiment_problems(experiment: &ExperimentConfig) -> Vec<Problem> {
    let mut problems = experiment.problems("");
    if problems.iter().all(|problem| problem.severity != Severity::Error) {
        let targets = experiment.tasks.iter().filter_map(|(name, task)| match &task.task {
            TaskSpec::Finetune(run) => Some(target_problems(&run.finetune, &format!("tasks.{name}.task.finetune.peft"))),
            _ => None,
        });
        problems.extend(targets.flatten());
    }
    problems
}

/// Returns the problems of the adapter targets of a valid run; `path` is the path of the adapters' settings.
fn target_problems(finetune: &Finetune, path: &str) -> Vec<Problem> {
    let Some(lora) = finetune.peft.as_ref().map(Peft::lora) else {
        return Vec::new();
    };
    let description = finetune.model.description();
    let layers = description.vision.map_or(0, |vision| vision.config.num_hidden_layers);
    if layers.max(description.decoder.map_or(0, |decoder| decoder.config.num_hidden_layers)) > MAX_LAYERS {
        return Vec::new();
    }
    // Only the ranks know a custom family of their rank program.
    let Ok(table) = Families::builtin().resolve(&finetune.model, "") else {
        return Vec::new();
    };
    let parameters = table.parameters(finetune.trainer.strategy.vision_placement);
    let adapters = match lora_adapters(&parameters, lora, path) {
        Ok(adapters) => adapters,
        Err(problems) => return problems,
    };
    if let Some(problem) = quantization_problem(&parameters, finetune, path) {
        return vec![problem];
    }
    let last = |pattern: &String| pattern.rsplit('.').next().unwrap_or_default().to_owned();
    let unknown = adapters
        .unmatched
        .iter()
        .filter(|(_, pattern)| !MODULES_OF_OTHER_MODELS.contains(&last(pattern).as_str()));
    unknown
        .map(|(setting, pattern)| {
            Problem::warning(format!("{path}.{setting}"), format!("no module matches {pattern:?}"))
                .help("remove it, or name a module of the model: linear_qkv, linear_proj, linear_fc1, linear_fc2, or q_proj and the like")
        })
        .collect()
}
