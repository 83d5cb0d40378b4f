//! The language model of a case alone, in its own Hugging Face folder: on text it computes the same as the whole model.

use crate::case::{finetune, json};
use neva_engine::checkpoint::{TensorFile, write_tensors};
use neva_layout::Families;
use neva_schemas::{Finetune, LlavaModel, Model};
use std::path::Path;
use tempfile::TempDir;

/// Writes the language model of the case to a folder, and returns the folder with a run that trains it alone.
pub(crate) fn language_model_alone(case: &Path, model: &LlavaModel) -> (TempDir, Finetune) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json(&case.join("config.json"))["text_config"].clone();
    config["tie_word_embeddings"] = model.text_config.tie_word_embeddings.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let table = Families::builtin().resolve(&Model::Llava(model.clone()), "model").unwrap();
    let file = TensorFile::open(&case.join("model.safetensors")).unwrap();
    let own = file.tensors().into_keys().filter_map(|name| {
        let canonical = table.canonical_name(&name)?;
        let alone = match canonical.strip_prefix("model.language_model.") {
            Some(rest) => format!("model.{rest}"),
            None if canonical.starts_with("lm_head.") => canonical,
            None => return None,
        };
        Some((alone, file.read(&name, None).unwrap()))
    });
    write_tensors(&folder.path().join("model.safetensors"), own.collect()).unwrap();
    let mut finetune = finetune(folder.path(), model.clone());
    finetune.model = Families::builtin().read_config(&config).unwrap();
    (folder, finetune)
}
