//! Import of a checkpoint of the original LLaVA repository: a whole model, or the projector or the adapters of one.
//!
//! ```text
//! base (--base, or named by the checkpoint) < vision encoder (--vision-tower, or named) < weights < projector, adapters
//! ```
//!
//! What is on the right replaces what is on the left. The result has transformers' config, an image token with its row in
//! the embedding, and the names of the hub's files.

mod adapter;
mod parts;
mod tokens;

use neva_layout::{
    Families,
    families::{FolderModel, OriginalLlava, clip_config_of_shapes, has_vocabulary_rows},
};
use neva_weights::TensorInfo;
use serde_json::{Value, json};

use super::{
    ImportError, ImportOptions, check,
    plan::Plan,
    sources::{Found, Sources},
    tensors::{From, Tensors, Wanted, is_number},
};
use crate::hub::CONFIG;
use parts::Parts;
use tokens::Tokens;

/// Plans the import of a checkpoint.
///
/// # Errors
/// All problems of the checkpoint.
pub(super) fn plan(
    found: &Found,
    original: &OriginalLlava,
    options: &ImportOptions,
    sources: &mut Sources<'_, '_>,
) -> Result<Plan, ImportError> {
    let parts = Parts::find(found, original, options, sources)?;
    let folder = found.folder.as_path();
    let wrong = |reason: String| ImportError::content(&folder.join(CONFIG), reason);
    let rows = parts.vocabulary_rows().or_else(|| original.vocab_size()).unwrap_or_default();
    let tokens = Tokens::of(&parts.tokenizer_folder, rows)?;
    let vision = match &parts.vision_config {
        Some(config) => config.clone(),
        None => clip_config_of_shapes(&parts.shapes()).ok_or_else(|| ImportError::Content {
            path: folder.to_owned(),
            problems: vec!["the sizes of its vision encoder are unknown".to_owned()],
            help: Some("name the folder of the vision encoder: --vision-tower DIR".to_owned()),
        })?,
    };
    let config = original
        .convert(&Families::builtin(), &vision, tokens.rows, i64::from(tokens.image))
        .map_err(|error| wrong(error.to_string()))?;
    let model = Families::builtin()
        .folder_model(&config)
        .map_err(|error| wrong(error.to_string()))?;
    let mut plan = Plan::new(&model, &config, parts.warnings.clone())?;
    plan.converted
        .push("the original LLaVA repository's form to transformers'".to_owned());
    plan.converted.extend(parts.converted.iter().cloned());
    if tokens.rows > rows {
        plan.converted.push(format!(
            "the embedding and the head from {rows} to {} rows, for `<image>` ({}) and `<pad>`: each new row is the mean of the old ones",
            tokens.rows, tokens.image
        ));
    }
    let wanted = wanted(folder, &model, &parts)?;
    files(&mut plan, config, tokens, &parts, &vision);
    plan.tensors(Tensors {
        files: parts.files,
        wanted,
    });
    Ok(plan)
}

/// Returns the tensors of the model in its own order, after a check of each.
fn wanted(folder: &std::path::Path, model: &FolderModel, parts: &Parts) -> Result<Vec<Wanted>, ImportError> {
    let (mut wanted, mut problems) = (Vec::new(), parts.problems.clone());
    for row in model.parameters() {
        let name = model.table.hub_name(&row.name);
        let Some(stored) = parts.stored(&name) else {
            problems.push(format!("`{name}` {:?} is missing", row.shape));
            continue;
        };
        let (dtype, shape) = (stored.info.dtype, &stored.info.shape);
        let at = parts.tensors[&name];
        let grows = has_vocabulary_rows(&name) && shape.len() == 2 && shape[0] < row.shape[0] && shape[1..] == row.shape[1..];
        let from = match parts.adapter.as_ref().and_then(|adapter| adapter.of(&name)) {
            Some((a, b, scale)) => {
                problems.extend(parts.misfit(&name, (a, b), &row.shape));
                From::Merged { base: at, a, b, scale }
            }
            None if grows => From::Rows(at),
            None => From::Stored(at),
        };
        if !grows && *shape != row.shape {
            problems.push(format!("`{name}` has shape {shape:?}, but its config says {:?}", row.shape));
        }
        if !matches!(from, From::Stored(_)) && !is_number(dtype) {
            problems.push(format!("`{name}` has the kind {dtype}, which cannot be changed"));
        }
        let info = TensorInfo {
            name,
            dtype,
            shape: row.shape,
        };
        wanted.push(Wanted { info, from });
    }
    if let Some(adapter) = &parts.adapter {
        let used = |name: &String| wanted.iter().any(|wanted| wanted.info.name == *name);
        let unused = adapter.linears().filter(|name| !used(name));
        problems.extend(unused.map(|name| format!("the adapter of `{name}` belongs to no linear of the model")));
    }
    if problems.is_empty() {
        return Ok(wanted);
    }
    Err(ImportError::Content {
        path: folder.to_owned(),
        problems,
        help: Some("the parts do not belong together: see --base and --vision-tower".to_owned()),
    })
}

/// Adds everything beside the weights.
fn files(plan: &mut Plan, mut config: Value, tokens: Tokens, parts: &Parts, vision: &Value) {
    config["pad_token_id"] = json!(tokens.pad);
    let generation = parts.tokenizer_folder.join("generation_config.json");
    if generation.is_file() {
        plan.copy("generation_config.json", generation);
    }
    let processor = parts.vision_folder.as_ref().map(|folder| folder.join("preprocessor_config.json"));
    match processor.filter(|path| path.is_file()) {
        Some(path) => plan.copy("preprocessor_config.json", path),
        None => plan.bytes_file("preprocessor_config.json", clip_processor(vision)),
    }
    plan.warnings
        .extend(parts.vision_folder.as_ref().and_then(|folder| check::processor_warning(folder)));
    plan.bytes_file(CONFIG, format!("{config:#}\n").into_bytes());
    for (name, bytes) in tokens.files {
        plan.bytes_file(&name, bytes);
    }
}

/// Returns the `preprocessor_config.json` of a CLIP for images of its size.
fn clip_processor(vision: &Value) -> Vec<u8> {
    let side = vision.get("image_size").cloned().unwrap_or_else(|| json!(336));
    let config = json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": true,
        "crop_size": {"height": side, "width": side},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
    });
    format!("{config:#}\n").into_bytes()
}
