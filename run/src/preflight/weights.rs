//! Checks the folders that a run starts from: a checkpoint, a model's folder, an adapter.

use std::path::Path;

use neva_layout::{
    Families, LLAVA_NON_LORA, ModelCache, PeftConfig, adapter_as_base, llava_adapter, missing_model, model_differences,
    unapplied_model_settings,
};
use neva_schemas::{AutoResume, Finetune, Peft, Problem, Run};
use serde_json::Value;

use super::{Artifacts, json_file, no_folder};

const RESTORE: &str = "finetune.resume.restore_config.path";
const ADAPTER: &str = "finetune.resume.adapter_path";
const RESUME: &str = "finetune.resume.resume_from_path";

/// The file that makes a folder a checkpoint.
const CHECKPOINT: &str = "checkpoint.json";
/// The file that makes a folder an adapter of PEFT.
const PEFT: &str = "adapter_config.json";

/// Appends the problems of the folders that `finetune` starts from. Returns the folder of its tokenizer.
pub(super) fn problems(finetune: &Finetune, cache: &ModelCache, problems: &mut Vec<Problem>) -> Artifacts {
    let resume = &finetune.resume;
    if let Some(path) = &resume.resume_from_path {
        problems.extend(checkpoint(path));
    }
    let adapter = resume.adapter_path.as_deref();
    if let Some(path) = adapter {
        adapter_problems(finetune, path, problems);
    }
    let Some(restore) = &resume.restore_config else {
        // The checkpoint records its base, which may have a tokenizer.
        return if adapter.is_some() { Artifacts::Unknown } else { Artifacts::None };
    };
    if !restore.load_model_state && !restore.load_artifacts {
        return Artifacts::None;
    }
    let path = cache.path_of(&restore.path);
    if !path.is_dir() {
        problems.push(missing_model("finetune.resume.restore_config.path", &restore.path, &path));
        return Artifacts::Unknown;
    }
    if restore.load_model_state {
        if path.join(CHECKPOINT).is_file() {
            problems.extend(whole_model(&path));
        } else {
            hugging_face(finetune, &path, problems);
        }
    }
    if restore.load_artifacts {
        Artifacts::Folder(path)
    } else {
        Artifacts::None
    }
}

/// Returns the problem of a checkpoint that a run resumes from.
fn checkpoint(path: &Path) -> Option<Problem> {
    const HELP: &str = "name a folder with checkpoint.json, as those below a run's `checkpoints`";
    let missing = || Problem::error(RESUME, format!("there is no checkpoint in {}", path.display())).help(HELP);
    (!path.join(CHECKPOINT).is_file()).then(missing)
}

/// Rejects a checkpoint of adapters where a whole model is required. A file that cannot be read is left to the ranks,
/// which distinguish damage from another format.
fn whole_model(path: &Path) -> Option<Problem> {
    let run: Run = json_file::read(&path.join("run.json"), RESTORE).ok()?;
    run.finetune.peft.is_some().then(|| adapter_as_base(path))
}

fn hugging_face(finetune: &Finetune, path: &Path, problems: &mut Vec<Problem>) {
    weight_files(path, problems);
    // A checkpoint with all weights needs no base, which then may be of another model.
    if may_replace_weights(&finetune.resume) {
        return;
    }
    // Only the ranks know a custom family of their rank program.
    if Families::builtin().resolve(&finetune.model, "").is_err() {
        return;
    }
    let file = path.join("config.json");
    let content: Value = match json_file::read(&file, RESTORE) {
        Ok(content) => content,
        Err(problem) => return problems.push(problem),
    };
    for sentence in unapplied_model_settings(&content) {
        problems.push(Problem::warning(RESTORE, format!("{}: {sentence}", file.display())));
    }
    match Families::builtin().read_config(&content) {
        Ok(found) => problems.extend(model_differences(&found, &finetune.model, &file)),
        Err(error) => problems.push(Problem::error(RESTORE, format!("{}: {error}", file.display()))),
    }
}

/// Returns whether all weights of a run may come from something other than its base.
fn may_replace_weights(resume: &AutoResume) -> bool {
    let adapter_is_checkpoint = resume.adapter_path.as_ref().is_some_and(|path| !path.join(PEFT).is_file());
    resume.resume_from_path.is_some() || resume.resume_if_exists || adapter_is_checkpoint
}

/// Checks that the weight files exist; their content is left to the ranks.
fn weight_files(path: &Path, problems: &mut Vec<Problem>) {
    if path.join("model.safetensors").is_file() {
        return;
    }
    let index = path.join("model.safetensors.index.json");
    if !index.is_file() {
        let message = format!(
            "{} holds neither model.safetensors nor model.safetensors.index.json",
            path.display()
        );
        problems.push(
            Problem::error(RESTORE, message).help("name a folder with config.json and *.safetensors, or a checkpoint of this program"),
        );
        return;
    }
    let content: Value = match json_file::read(&index, RESTORE) {
        Ok(content) => content,
        Err(problem) => return problems.push(problem),
    };
    let names = content.get("weight_map").and_then(Value::as_object).into_iter().flatten();
    let mut names: Vec<_> = names.filter_map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let is_missing = |name: &&&str| !name.contains(['/', '\\']) && !path.join(name).is_file();
    let missing: Vec<_> = names.iter().filter(is_missing).copied().collect();
    if let [first, rest @ ..] = missing.as_slice() {
        let more = if rest.is_empty() {
            String::new()
        } else {
            format!(" and {} more", rest.len())
        };
        let message = format!("{} names {first}{more}, which is not there", index.display());
        problems.push(Problem::error(RESTORE, message).help("download the model again: one of its files is missing"));
    }
}

fn adapter_problems(finetune: &Finetune, path: &Path, problems: &mut Vec<Problem>) {
    const HELP: &str = "name a folder with checkpoint.json, or with adapter_config.json and adapter_model.safetensors (or .bin)";
    let file = path.join(PEFT);
    if !path.is_dir() {
        problems.push(no_folder(ADAPTER, path).help(HELP));
    } else if file.is_file() {
        let content: Value = match json_file::read(&file, ADAPTER) {
            Ok(content) => content,
            Err(problem) => return problems.push(problem),
        };
        let config = path.join("config.json");
        let config: Option<Value> = config.is_file().then(|| json_file::read(&config, ADAPTER).ok()).flatten();
        if let Some(problem) = llava_adapter(ADAPTER, path, config.as_ref(), path.join(LLAVA_NON_LORA).is_file()) {
            return problems.push(problem);
        }
        match PeftConfig::from_json(&content) {
            Ok(config) => {
                if finetune.resume.restore_config.is_none() {
                    problems.push(config.missing_base(path));
                }
                if let Some(lora) = finetune.peft.as_ref().map(Peft::lora) {
                    let unapplied = config.unapplied(lora).into_iter();
                    problems.extend(unapplied.map(|sentence| Problem::warning(ADAPTER, format!("{}: {sentence}", file.display()))));
                    problems.extend(config.differences(lora, path));
                }
            }
            Err(reasons) => problems.push(Problem::error(ADAPTER, format!("{}: {}", file.display(), reasons.join("; ")))),
        }
        if !["adapter_model.safetensors", "adapter_model.bin"]
            .iter()
            .any(|name| path.join(name).is_file())
        {
            let message = format!("{} holds neither adapter_model.safetensors nor adapter_model.bin", path.display());
            problems.push(Problem::error(ADAPTER, message).help(HELP));
        }
    } else if !path.join(CHECKPOINT).is_file() {
        let message = format!("{} is neither a checkpoint of this program nor a folder of PEFT", path.display());
        problems.push(Problem::error(ADAPTER, message).help(HELP));
    }
}
