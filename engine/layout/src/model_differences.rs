//! Differences between a model's `config.json` and a recipe's model.

use neva_schemas::{Model, Problem};
use serde_json::Value;
use std::path::Path;

/// Fields that do not affect the forward pass.
const IGNORED: &[&str] = &[
    // Images are placed by marks of the data. The index is written to files for other programs.
    "image_token_index",
    "max_position_embeddings",
    "initializer_range",
    "layer_scale_init_value",
    "vision_use_head",
    "freeze_language_model",
    "freeze_vision_model",
    "freeze_vision_projection",
    "from_pretrained",
    "language_model_from_pretrained",
    "vision_model_from_pretrained",
    "vision_projection_from_pretrained",
];

/// Returns every difference between `wanted`, the model of a run, and `found`, the model of the file `path`. They
/// explain more than a list of mismatched tensors.
pub fn model_differences(found: &Model, wanted: &Model, path: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    let seeing = |model: &Model| model.description().vision.is_some();
    if seeing(found) != seeing(wanted) {
        let message = format!(
            "the run trains {}, but {} describes {}",
            wanted.target(),
            path.display(),
            found.target()
        );
        return vec![Problem::error("finetune.model", message).help(format!("use `_target_: {}`", found.target()))];
    }
    config_differences("finetune.model", &model_fields(found), &model_fields(wanted), path, &mut problems);
    problems
}

/// Returns the fields of a model by name, with all values explicit.
pub(crate) fn model_fields(model: &Model) -> Value {
    let tagged = serde_json::to_value(model.explicit()).unwrap_or_default();
    // They are nested below the variant's name.
    let fields = tagged.as_object().and_then(|tagged| tagged.values().next().cloned());
    fields.unwrap_or_default()
}

/// Appends a problem for each field of `wanted` that has another value in `found`, which was read from `path`.
pub fn config_differences(at: &str, found: &Value, wanted: &Value, path: &Path, problems: &mut Vec<Problem>) {
    let (Some(found), Some(wanted)) = (found.as_object(), wanted.as_object()) else {
        return;
    };
    for (name, value) in wanted.iter().filter(|(name, _)| !IGNORED.contains(&name.as_str())) {
        let at = format!("{at}.{name}");
        let other = found.get(name).unwrap_or(&Value::Null);
        if value.is_object() && other.is_object() {
            config_differences(&at, other, value, path, problems);
        } else if other != value {
            let problem = Problem::error(&at, format!("`{name}` is {value}, but {other} in {}", path.display()));
            problems.push(problem.help(format!("--set {at}={other}")));
        }
    }
}
