//! Import of a folder in Hugging Face's form: its config, its files, the name and shape of each tensor, and the tokenizer.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use neva_data::{ImageProcessor, Tokenizer};
use neva_layout::{Families, families::FolderModel, unapplied_model_settings};
use neva_weights::{Dtype, Format, TensorInfo, WeightFile};
use serde_json::Value;

use super::{
    ImportError,
    plan::Plan,
    sources::Found,
    tensors::{At, From, Tensors, Wanted},
    weights::{self, more},
};
use crate::hub::{ADAPTER_CONFIG, CONFIG, TOOLS};

/// File that says where answers end.
const GENERATION: &str = "generation_config.json";

/// Reads the `config.json` of a folder.
///
/// # Errors
/// There is none, or it is not JSON.
pub(super) fn config(path: &Path) -> Result<Value, ImportError> {
    let file = path.join(CONFIG);
    if let Some(error) = weights::dead_link(&file) {
        return Err(error);
    }
    let text = std::fs::read(&file).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound if path.join(ADAPTER_CONFIG).is_file() => ImportError::Content {
            path: path.to_owned(),
            problems: vec!["it has adapters of peft, not a model".to_owned()],
            help: Some(format!(
                "train them further with --set finetune.resume.adapter_path={}, over the model that they belong to",
                path.display()
            )),
        },
        std::io::ErrorKind::NotFound if path.join("checkpoint.json").is_file() => ImportError::Content {
            path: path.to_owned(),
            problems: vec!["it is a checkpoint of neva-run, not a model in Hugging Face's form".to_owned()],
            help: Some("export it first: neva-run export CHECKPOINT --format hf".to_owned()),
        },
        std::io::ErrorKind::NotFound => ImportError::Content {
            path: path.to_owned(),
            problems: vec![format!("there is no {CONFIG}")],
            help: Some(format!(
                "name the folder with {CONFIG} and the weights; only a GGUF file needs no {CONFIG}"
            )),
        },
        _ => ImportError::io("read", &file, source),
    })?;
    serde_json::from_slice(&text).map_err(|error| ImportError::content(&file, format!("not JSON: {error}")))
}

/// Plans the import of a folder, or of a file of weights beside its config.
///
/// # Errors
/// All problems of the folder.
pub(super) fn plan(found: &Found, config: &Value) -> Result<Plan, ImportError> {
    let folder = found.folder.as_path();
    let file = folder.join(CONFIG);
    let model = Families::builtin()
        .folder_model(config)
        .map_err(|error| ImportError::content(&file, error.to_string()))?;
    if let Some(error) = beside().find_map(|name| weights::dead_link(&folder.join(name))) {
        return Err(error);
    }
    let (paths, index) = match &found.file {
        Some(file) => (vec![file.clone()], None),
        None => {
            let (names, index) = weights::files(folder)?.ok_or_else(|| weights::none(folder))?;
            (names.iter().map(|name| folder.join(name)).collect(), index)
        }
    };
    let files = weights::open_all(paths.iter().cloned())?;
    let mut plan = Plan::new(&model, config, unapplied_model_settings(config))?;
    let (problems, foreign) = problems(folder, &model, &files);
    if let Some((first, rest)) = foreign.split_first() {
        let more = more(rest.len());
        plan.warnings
            .push(format!("`{first}`{more} belong to no part of the model and are ignored"));
    }
    if config.get("model_type").is_none() {
        let kind = &model.model_type;
        plan.warnings.push(format!(
            "{CONFIG} has no `model_type`, which transformers needs: it is read as that of {kind:?}"
        ));
    }
    plan.warnings.extend(processor_warning(folder));
    plan.warnings.extend(tokenizer_warning(folder, &model));
    plan.warnings.extend(generation_warning(folder));
    if !problems.is_empty() {
        return Err(ImportError::Content {
            path: folder.to_owned(),
            problems,
            help: Some(format!(
                "the files do not belong to this {CONFIG}, or some are missing: download or copy the model again"
            )),
        });
    }
    plan.copy(CONFIG, file);
    tools(&mut plan, folder);
    let is_pickle = files.iter().any(|file| file.format() != Format::Safetensors);
    let names = NewNames::of(&model, &files);
    if !is_pickle && !names.differ && found.file.is_none() {
        plan.usable_in_place = true;
        if let Some(index) = index {
            plan.copy(index, folder.join(index));
        }
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            plan.copy(&name, path);
        }
        return Ok(plan);
    }
    plan.usable_in_place = !is_pickle && found.file.is_none();
    if is_pickle {
        plan.converted.push("pickles to safetensors".to_owned());
    }
    if names.differ {
        plan.converted.push("names to those of the hub's files".to_owned());
    }
    let wanted = names.wanted;
    plan.tensors(Tensors { files, wanted });
    Ok(plan)
}

/// Returns the names of the files beside the weights.
fn beside() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().copied().chain([GENERATION])
}

/// Adds the files of the tokenizer, the image processor and the chat template.
pub(super) fn tools(plan: &mut Plan, folder: &Path) {
    for name in beside().filter(|name| folder.join(name).is_file()) {
        plan.copy(name, folder.join(name));
    }
    // A sentencepiece model may have another name.
    let tokenizer = Tokenizer::file_in(folder);
    let name = tokenizer.as_ref().and_then(|path| path.file_name()?.to_str());
    if let (Some(path), Some(name)) = (&tokenizer, name.filter(|name| !TOOLS.contains(name))) {
        plan.copy(name, path.clone());
    }
}

/// Tensors with the names that they get.
struct NewNames {
    wanted: Vec<Wanted>,
    /// A name changes.
    differ: bool,
}

impl NewNames {
    /// Names the tensors of a whole model as in the hub's files. Those of a part keep their names, as its own class has them.
    fn of(model: &FolderModel, files: &[WeightFile]) -> Self {
        let (mut wanted, mut differ, mut known) = (Vec::new(), false, BTreeSet::new());
        for (file, at) in files.iter().enumerate() {
            for (tensor, stored) in at.tensors().iter().enumerate() {
                let name = &stored.info.name;
                let canonical = model.table.canonical_name(name).filter(|_| model.part.is_none());
                let new = canonical.map_or_else(|| name.clone(), |canonical| model.table.hub_name(&canonical));
                differ |= new != *name;
                if known.insert(new.clone()) {
                    let info = TensorInfo {
                        name: new,
                        ..stored.info.clone()
                    };
                    let from = From::Stored(At { file, tensor });
                    wanted.push(Wanted { info, from });
                }
            }
        }
        Self { wanted, differ }
    }
}

/// Returns all problems of a model's files, and the names of tensors that belong to no part of it.
pub(super) fn problems(folder: &Path, model: &FolderModel, files: &[WeightFile]) -> (Vec<String>, Vec<String>) {
    let tensors = files.iter().flat_map(WeightFile::tensors);
    let shapes = tensors.map(|tensor| (tensor.info.name.as_str(), tensor.info.shape.as_slice()));
    let (mut problems, foreign) = model.check(shapes);
    let tensors = files.iter().flat_map(WeightFile::tensors).map(|tensor| &tensor.info);
    let integers = tensors.filter(|info| !is_floating_point(info.dtype) && model.holds_parameters(&info.name));
    problems.extend(integers.map(|info| {
        let (name, dtype) = (&info.name, info.dtype);
        format!("`{name}` has the kind {dtype}, and weights are floating-point numbers: use the original model, not a quantized one")
    }));
    problems.extend(tokenizer(folder, model));
    (problems, foreign)
}

/// Returns whether the values of a kind are those of weights that can be trained.
fn is_floating_point(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Returns a warning about an image processor that cannot be read.
pub(super) fn processor_warning(folder: &Path) -> Option<String> {
    let processor: PathBuf = folder.join("preprocessor_config.json");
    let error = ImageProcessor::open(&processor).err().filter(|_| processor.is_file())?;
    Some(format!("{error}: name another in finetune.data.image_processor"))
}

/// Returns a warning about a `generation_config.json` that is not JSON.
fn generation_warning(folder: &Path) -> Option<String> {
    let path = folder.join(GENERATION);
    let error = serde_json::from_slice::<Value>(&std::fs::read(&path).ok()?).err()?;
    Some(format!(
        "{} is not JSON: {error}: `neva-run generate` needs it to be; download it again, or remove it, and import again",
        path.display()
    ))
}

/// Returns a warning about a model of texts without a tokenizer.
fn tokenizer_warning(folder: &Path, model: &FolderModel) -> Option<String> {
    if !model.has_decoder() || Tokenizer::file_in(folder).is_some() {
        return None;
    }
    let found = match folder.join("vocab.json").is_file() {
        true => {
            "vocab.json is not read: let transformers write a tokenizer.json, \
                 `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`, and import again"
        }
        false => "copy tokenizer.json and tokenizer_config.json of the model there, and import again",
    };
    Some(format!(
        "{} has no tokenizer, which `neva-run generate` and a run on data need: {found}; or name another with \
         --set finetune.data.tokenizer=DIR",
        folder.display()
    ))
}

/// Returns the problems of the model's tokenizer.
fn tokenizer(path: &Path, model: &FolderModel) -> Vec<String> {
    let decoder = model.table.description.decoder.as_ref();
    let (true, Some(decoder)) = (model.has_decoder() && Tokenizer::file_in(path).is_some(), decoder) else {
        return Vec::new();
    };
    let tokenizer = match Tokenizer::open(&path.display().to_string()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems = Vec::new();
    let (tokens, rows) = (tokenizer.vocab_size(), decoder.config.vocab_size);
    if tokens > rows {
        problems.push(format!("the tokenizer has {tokens} tokens, but the embedding has only {rows} rows"));
    }
    problems.extend(model.image_token.and_then(|index| tokenizer.image_token_problem(index)));
    problems
}
