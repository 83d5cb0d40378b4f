//! Import of a GGUF file: a language model with its tokenizer and chat template.

use std::path::Path;

use neva_data::{GgufTokenizer, Tokenizer};
use neva_layout::{
    Families,
    families::{GgufMetadata, gguf_name, is_derived_gguf, rotated_heads},
};
use neva_weights::{Format, Metadata, TensorInfo, WeightFile};
use serde_json::{Map, Value, json};

use super::{
    ImportError,
    plan::Plan,
    tensors::{At, From, Tensors, Wanted},
    weights::more,
};
use crate::hub::CONFIG;

/// Plans the import of a file; `None` if it is no GGUF file.
///
/// # Errors
/// The file is not whole, or its architecture or its tokenizer is not supported.
pub(super) fn plan(path: &Path) -> Result<Option<Plan>, ImportError> {
    let file = WeightFile::open(path)?;
    if file.format() != Format::Gguf {
        return Ok(None);
    }
    let wrong = |reason: String| ImportError::content(path, reason);
    let metadata = file.metadata();
    let mut config = config(&file).map_err(|error| wrong(error.to_string()))?;
    let model = Families::builtin()
        .folder_model(&config)
        .map_err(|error| wrong(error.to_string()))?;
    let (wanted, foreign) = tensors(&file, &config);
    let (problems, _) = model.check(
        wanted
            .iter()
            .map(|wanted| (wanted.info.name.as_str(), wanted.info.shape.as_slice())),
    );
    if !problems.is_empty() {
        return Err(ImportError::Content {
            path: path.to_owned(),
            problems,
            help: Some("the tensors do not belong to the metadata of the file: convert or download it again".to_owned()),
        });
    }
    let tokenizer = tokenizer(metadata).ok_or_else(|| wrong("its metadata have no tokenizer: `tokenizer.ggml.model`".to_owned()))?;
    let (tokens, rows) = (tokenizer.tokens.len(), config["vocab_size"].as_u64().unwrap_or_default());
    if tokens as u64 > rows {
        return Err(wrong(format!(
            "the tokenizer has {tokens} tokens, but the embedding has only {rows} rows"
        )));
    }
    let files = tokenizer.files().map_err(wrong)?;
    if let [(_, json), (_, config)] = &files[..] {
        Tokenizer::from_bytes(&path.display().to_string(), json, Some(config)).map_err(|error| wrong(error.to_string()))?;
    }
    let mut plan = Plan::new(&model, &config, Vec::new())?;
    if let Some((first, rest)) = foreign.split_first() {
        let more = more(rest.len());
        plan.warnings
            .push(format!("`{first}`{more} belong to no part of the model and are ignored"));
    }
    if matches!(metadata.text("tokenizer.ggml.pre"), None | Some("default")) && tokenizer.model == "gpt2" {
        plan.warnings
            .push("the file does not say how texts are split into words (`tokenizer.ggml.pre`): GPT-2's rule is used".to_owned());
    }
    plan.converted.push("GGUF to safetensors; quantized values to fp32".to_owned());
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let ids = ids
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), config.get(name)?.clone())));
    let generation = Value::Object(ids.collect::<Map<_, _>>());
    config["torch_dtype"] = json!("float32");
    plan.bytes_file(CONFIG, format!("{config:#}\n").into_bytes());
    plan.bytes_file("generation_config.json", format!("{generation:#}\n").into_bytes());
    for (name, bytes) in files {
        plan.bytes_file(&name, bytes);
    }
    plan.tensors(Tensors { files: vec![file], wanted });
    Ok(Some(plan))
}

/// Returns the `config.json` of the model.
fn config(file: &WeightFile) -> Result<Value, neva_layout::HfConfigError> {
    let metadata = file.metadata();
    let factors = file.tensors().iter().find(|tensor| is_derived_gguf(&tensor.info.name));
    let factors = factors.and_then(|tensor| file.read_f32(tensor).ok());
    GgufMetadata {
        architecture: metadata.text("general.architecture").unwrap_or_default(),
        number: &|key| metadata.number(key),
        text: &|key| metadata.text(key).map(str::to_owned),
        shape: &|name| file.tensor(name).map(|tensor| tensor.info.shape.clone()),
        rope_factors: factors.as_deref(),
    }
    .config()
}

/// Returns the tensors under Hugging Face's names, and the names of those that belong to no part of the model.
fn tensors(file: &WeightFile, config: &Value) -> (Vec<Wanted>, Vec<String>) {
    let size = |name: &str| config[name].as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or(1);
    let heads = (size("num_attention_heads"), size("num_key_value_heads"));
    let architecture = file.metadata().text("general.architecture").unwrap_or_default();
    let (mut wanted, mut foreign) = (Vec::new(), Vec::new());
    for (index, tensor) in file.tensors().iter().enumerate() {
        let name = &tensor.info.name;
        let at = At { file: 0, tensor: index };
        match gguf_name(name) {
            _ if is_derived_gguf(name) => {}
            None => foreign.push(name.clone()),
            Some(new) => {
                let info = TensorInfo {
                    name: new,
                    ..tensor.info.clone()
                };
                // Heads of other sizes are reported as tensors of a wrong shape.
                let heads = rotated_heads(architecture, name, heads);
                let heads = heads.filter(|heads| info.shape.first().is_some_and(|rows| rows % (2 * heads) == 0));
                let from = heads.map_or(From::Stored(at), |heads| From::Heads(at, heads));
                wanted.push(Wanted { info, from });
            }
        }
    }
    (wanted, foreign)
}

/// Returns the tokenizer in the metadata.
fn tokenizer(metadata: &Metadata) -> Option<GgufTokenizer<'_>> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| metadata.integer(&key(name)).and_then(|id| usize::try_from(id).ok());
    let numbers = |name: &str| metadata.numbers(&key(name)).unwrap_or_default();
    Some(GgufTokenizer {
        model: metadata.text(&key("model"))?,
        pre: metadata.text(&key("pre")),
        tokens: metadata.texts(&key("tokens")).unwrap_or_default(),
        token_type: numbers("token_type").into_iter().map(|kind| kind as i64).collect(),
        scores: numbers("scores").into_iter().map(|score| score as f32).collect(),
        merges: metadata.texts(&key("merges")).unwrap_or_default(),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unknown: id("unknown_token_id"),
        padding: id("padding_token_id"),
        add_bos: metadata.boolean(&key("add_bos_token")),
        add_eos: metadata.boolean(&key("add_eos_token")),
        add_space_prefix: metadata.boolean(&key("add_space_prefix")),
        chat_template: metadata.text("tokenizer.chat_template"),
    })
}
