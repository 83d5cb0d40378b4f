//! Exports a model to the formats of other programs, with everything that they need to load it; and merges adapters.
//!
//! A format is a list of tensors, each made of parameters of the model, and of files beside them. Tensors are read, converted
//! and written one group at a time. The folder appears under its name only when it is complete.

mod check;
mod common_rank;
mod companion_files;
mod companions;
mod config;
mod equal_extents;
mod files;
mod generation;
mod image_processor;
mod merge;
mod merged_weight;
mod neva;
mod peft;
mod peft_config;
mod peft_contents;
mod run_of_folder;
mod shard_writer;
mod source;
mod staging;
mod tensors;
mod tokenizer_files;
mod trained;
mod whole;

use crate::checkpoint::{ModelCache, write_tensors};
use crate::error::{EngineError, Result};
use crate::model::Models;
pub use check::Checked;
use check::{CanaryTensors, Logits, Subject, check};
pub use merge::{check_merge, merge};
use neva_schemas::Problem;
pub use neva_schemas::{ExportDtype, ExportFormat, ExportRequest, MAX_SHARD_SIZE, MergeRequest, NameLayout, Reader, WeightedAdapter};
use neva_weights::Unsynced;
use serde::Serialize;
use source::Source;
use staging::Staging;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A written export.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// The folder.
    pub dir: PathBuf,
    /// Its format.
    pub format: ExportFormat,
    /// Names of its tensors.
    pub names: NameLayout,
    /// Program that reads it.
    pub reader: Reader,
    /// Folder of the whole model, if there is one.
    pub model: Option<PathBuf>,
    /// Folder of the adapter, if there is one.
    pub adapter: Option<PathBuf>,
    /// What a user must know to load it; one sentence each.
    pub notes: Vec<String>,
    /// What the check of the written files found.
    pub checked: Checked,
    /// Time in which the files were written, but for the disk, and the source verified.
    #[serde(skip)]
    pub write_time: Duration,
    /// Time of the check. The rest of an export's time is waiting for the disk.
    #[serde(skip)]
    pub check_time: Duration,
}

/// Exports the model of a checkpoint or of a folder.
///
/// # Errors
/// The request is not possible, a file cannot be read or written, or the base weights are others. Nothing is left behind.
pub fn export(request: &ExportRequest, models: &Models, cache: &ModelCache) -> Result<Exported> {
    check_request(request)?;
    let started = Instant::now();
    let source = Source::unverified(&request.checkpoint, &request.base, models.families(), cache)?;
    let out = match &request.out {
        Some(out) => out.clone(),
        None => source.path.join(request.format.word()),
    };
    let staging = Staging::create(&out, request.overwrite, source.folders())?;
    let (verified, written) = std::thread::scope(|scope| {
        let verifying = scope.spawn(|| source.verify());
        let written = match request.format {
            ExportFormat::Hf | ExportFormat::Llava => whole::write(&source, request, cache, staging.folder()),
            ExportFormat::HfPeft => peft::write(&source, request, cache, staging.folder()),
            ExportFormat::Neva => neva::write(&source, request, cache, staging.folder()),
        };
        (verifying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), written)
    });
    verified?;
    let (written, write_time) = (written?, started.elapsed());
    let (checked, _) = check_written(
        &source,
        request,
        &written,
        (&out, staging.folder()),
        (wanted_logits(request), models, cache),
    )?;
    let check_time = started.elapsed().saturating_sub(write_time);
    written.unsynced.into_iter().try_for_each(Unsynced::finish)?;
    let dir = staging.publish()?;
    Ok(Exported {
        format: request.format,
        names: request.names(),
        reader: request.reader(),
        model: written.model.map(|name| below(&dir, name)),
        adapter: written.adapter.map(|name| below(&dir, name)),
        notes: written.notes,
        checked,
        write_time,
        check_time,
        dir,
    })
}

/// Checks an export that [`export`] wrote for this request.
///
/// # Errors
/// A file is missing, or the reader would load another model than the run's: everything is listed.
pub fn check_export(request: &ExportRequest, models: &Models, cache: &ModelCache) -> Result<Checked> {
    check_existing(request, wanted_logits(request), models, cache).map(|(checked, _)| checked)
}

/// As [`check_export`]. Also writes the canary and the run's logits to a safetensors file: `input_ids` `[1, s]`, negative at
/// the positions of an image, `pixel_values`, and `logits` `[s, v]`.
///
/// # Errors
/// As [`check_export`], or the file cannot be written.
pub fn check_export_with_canary(request: &ExportRequest, canary: &Path, models: &Models, cache: &ModelCache) -> Result<Checked> {
    let (checked, run) = check_existing(request, Logits::Always, models, cache)?;
    write_tensors(canary, run)?;
    Ok(checked)
}

fn wanted_logits(request: &ExportRequest) -> Logits {
    match request.logits {
        true => Logits::Always,
        false => Logits::IfNeeded,
    }
}

fn check_existing(request: &ExportRequest, logits: Logits, models: &Models, cache: &ModelCache) -> Result<(Checked, CanaryTensors)> {
    check_request(request)?;
    let source = Source::open(&request.checkpoint, &request.base, models.families(), cache)?;
    let dir = request.out.clone().unwrap_or_else(|| source.path.join(request.format.word()));
    let is_split = dir.join(peft::ADAPTER).is_dir();
    let (model, adapter) = match request.format {
        ExportFormat::HfPeft if is_split => (Some(peft::BASE), Some(peft::ADAPTER)),
        ExportFormat::HfPeft => (None, Some("")),
        ExportFormat::Hf | ExportFormat::Neva | ExportFormat::Llava => (Some(""), None),
    };
    let written = Written {
        model,
        adapter,
        ..Written::default()
    };
    check_written(&source, request, &written, (&dir, &dir), (logits, models, cache))
}

/// Checks what was written into `folder`, which will be `dir`.
fn check_written(
    source: &Source,
    request: &ExportRequest,
    written: &Written,
    (dir, folder): (&Path, &Path),
    (logits, models, cache): (Logits, &Models, &ModelCache),
) -> Result<(Checked, CanaryTensors)> {
    let [model, adapter] = [written.model, written.adapter].map(|name| name.map(|name| below(folder, name)));
    let subject = Subject {
        dir,
        model: model.as_deref(),
        adapter: adapter.as_deref(),
        form: (request.format, request.names(), request.reader()),
        finetune: &source.finetune,
        checkpoint: source.checkpoint.as_ref(),
        base: &source.base,
        source,
    };
    check(&subject, logits, models, cache)
}

/// Exports a checkpoint as NeMo's `export_ckpt` does: `target` is a format, by default to `<path>/<target>`.
///
/// # Errors
/// As [`export`]; or `target` is not a format.
pub fn export_ckpt(path: &Path, target: &str, output_path: Option<&Path>, models: &Models, cache: &ModelCache) -> Result<PathBuf> {
    let format = target.parse();
    let format = format.map_err(|message: String| EngineError::Run(vec![Problem::error("target", message)]))?;
    let request = ExportRequest {
        out: output_path.map(Path::to_owned),
        ..ExportRequest::new(path, format)
    };
    export(&request, models, cache).map(|exported| exported.dir)
}

/// What a format has written into a folder. Names are folders within it; the empty one is the folder itself.
#[derive(Debug, Default)]
struct Written {
    model: Option<&'static str>,
    adapter: Option<&'static str>,
    notes: Vec<String>,
    /// Files that may not be on disk yet: the check reads them before.
    unsynced: Vec<Unsynced>,
}

fn below(dir: &Path, name: &str) -> PathBuf {
    if name.is_empty() { dir.to_owned() } else { dir.join(name) }
}

/// Refuses a format that the reader does not read.
fn check_request(request: &ExportRequest) -> Result<()> {
    let refuse = |option: &str, message: String, help: &str| Err(EngineError::Run(vec![Problem::error(option, message).help(help)]));
    let (format, reader) = (request.format, request.reader());
    match (format, reader) {
        (ExportFormat::Hf, Reader::Peft) => refuse(
            "--for",
            "PEFT reads adapters, and `hf` is a whole model".into(),
            "use --format hf-peft, or --for transformers",
        ),
        (ExportFormat::Neva | ExportFormat::Llava, Reader::Peft | Reader::Vllm) => refuse(
            "--for",
            format!("{reader} does not read the format `{format}`"),
            "leave out --for, or use --format hf or hf-peft",
        ),
        (ExportFormat::Neva | ExportFormat::Llava, _) if request.names.is_some() => refuse(
            "--names",
            format!("the format `{format}` has names of its own"),
            "leave out --names",
        ),
        (_, Reader::Vllm) if request.names == Some(NameLayout::Newer) => refuse(
            "--names",
            "vLLM is given the original names, which all its versions know".into(),
            "leave out --names",
        ),
        _ if request.max_shard_size == 0 => refuse("--max-shard-size", "it is 0".into(), "name a size, as 5GB"),
        _ => Ok(()),
    }
}
