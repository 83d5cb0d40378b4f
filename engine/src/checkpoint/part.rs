//! Reads one part of a model from a Hugging Face folder of a Llama, a CLIP, or a whole LLaVA.

use super::extent::Extent;
use super::hugging_face::hugging_face_files;
use super::json::read_json;
use super::placement::{Names, Placement, Values, all_finite, mismatches};
use super::safetensors_file::TensorFile;
use crate::error::{EngineError, Result};
use neva_layout::families::PartContents;
use neva_layout::{Cut, ModelTable, ParamSpec, Part, Window};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The files of a Hugging Face folder, of which one part of the model is read.
#[derive(Debug)]
pub(crate) struct PartFiles {
    folder: PathBuf,
    files: Vec<TensorFile>,
    names: Names,
    /// First row of each parameter that shares a tensor with others.
    first_rows: BTreeMap<String, usize>,
    /// Number of rows of each parameter that has fewer rows than in the model.
    rows: BTreeMap<String, usize>,
}

impl PartFiles {
    /// Opens `folder`, which must hold all parameters of `part` in `specs`. Embedding and head may have fewer rows there: the
    /// missing rows become the mean of the others, as in transformers' `resize_token_embeddings`.
    ///
    /// # Errors
    /// The folder holds another model, or only some tensors of the part.
    pub(super) fn open(table: &ModelTable, folder: &Path, part: Part, specs: &[ParamSpec]) -> Result<Self> {
        let contents = check_part_config(table, folder, part)?;
        let specs: Vec<_> = specs.iter().filter(|spec| spec.part == part).cloned().collect();
        let files = hugging_face_files(folder)?
            .iter()
            .map(|path| TensorFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        let (mut names, mut problems) = (Names::new(), Vec::new());
        let mut first_rows = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for (name, shape) in file.tensors() {
                let fused = match contents {
                    PartContents::Whole => Vec::new(),
                    PartContents::Part => table.fused_part_names(part, &name),
                };
                if !fused.is_empty() {
                    let mut shape = shape.clone();
                    if let Some(rows) = shape.first_mut() {
                        *rows /= fused.len();
                    }
                    let each = shape.first().copied().unwrap_or_default();
                    for (position, canonical) in fused.into_iter().enumerate() {
                        first_rows.insert(canonical.clone(), position * each);
                        names.insert(canonical, (index, name.clone(), shape.clone()));
                    }
                    continue;
                }
                let canonical = match contents {
                    PartContents::Whole => table
                        .canonical_name(&name)
                        .filter(|canonical| specs.iter().any(|spec| spec.name == *canonical)),
                    PartContents::Part => table.canonical_part_name(part, &name),
                };
                match canonical {
                    Some(canonical) if names.contains_key(&canonical) => {
                        problems.push(format!("`{name}` is a second tensor for `{canonical}`"));
                    }
                    Some(canonical) if !table.is_derived(&canonical) => drop(names.insert(canonical, (index, name, shape))),
                    None if contents == PartContents::Part && !table.is_beside_part(&name) && !table.is_derived(&name) => {
                        problems.push(format!("`{name}` is not a tensor of a {}", label(part)));
                    }
                    Some(_) | None => {}
                }
            }
        }
        // Some files hold a tied head nevertheless.
        names.retain(|name, _| !table.is_tied_head(name));
        let mut rows = BTreeMap::new();
        for spec in specs.iter().filter(|spec| spec.cut == Cut::Vocab) {
            if let Some((_, _, shape)) = names.get_mut(&spec.name)
                && shape.len() == spec.shape.len()
                && shape[0] < spec.shape[0]
            {
                rows.insert(spec.name.clone(), std::mem::replace(&mut shape[0], spec.shape[0]));
            }
        }
        problems.extend(mismatches(&names, &specs));
        if !problems.is_empty() {
            let path = folder.to_owned();
            return Err(EngineError::Weights { path, problems });
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
            names,
            first_rows,
            rows,
        })
    }

    /// Returns where a parameter lies that has a tensor of its own.
    pub(super) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        if self.first_rows.contains_key(&spec.name) || self.rows.contains_key(&spec.name) {
            return None;
        }
        let (index, name, _) = self.names.get(&spec.name)?;
        self.files[*index].extent(name)
    }

    /// Reads this rank's local shards of `wanted`, some parameters of the part.
    pub(super) fn read(&self, wanted: &[ParamSpec], placement: Placement) -> Result<Values> {
        let Self {
            folder,
            files,
            names,
            first_rows,
            rows,
        } = self;
        let read = |spec: &ParamSpec| {
            let (index, name, _) = &names[&spec.name];
            let value = match rows.get(&spec.name) {
                Some(rows) => placement.local_shard(spec, |window| read_with_mean_rows(&files[*index], name, *rows, window))?,
                None => placement.local_shard(spec, |window| {
                    let first = first_rows.get(&spec.name).copied().unwrap_or_default();
                    let window = Window {
                        rows: window.rows.start + first..window.rows.end + first,
                        columns: window.columns.clone(),
                    };
                    files[*index].read_window(name, &window)
                })?,
            };
            Ok((spec.name.clone(), value))
        };
        all_finite(folder, wanted.iter().map(read))
    }
}

/// Reads a rectangle of a matrix, of which the file holds only the first `rows` rows.
fn read_with_mean_rows(file: &TensorFile, name: &str, rows: usize, window: &Window) -> Result<Tensor> {
    if window.rows.end <= rows {
        return file.read_window(name, window);
    }
    let whole = file.read_window(
        name,
        &Window {
            rows: 0..rows,
            columns: window.columns.clone(),
        },
    )?;
    let mean = whole.f_mean_dim([0i64].as_slice(), true, Kind::Float)?.f_to_kind(whole.kind())?;
    let from_file = rows.saturating_sub(window.rows.start);
    let own = whole.f_narrow(0, (rows - from_file) as i64, from_file as i64)?;
    let added = mean.f_expand([(window.rows.len() - from_file) as i64, -1], false)?;
    Ok(Tensor::f_cat(&[own, added], 0)?)
}

/// Checks that a folder's `config.json` describes the `part` that the run's model has.
fn check_part_config(table: &ModelTable, folder: &Path, part: Part) -> Result<PartContents> {
    let path = folder.join("config.json");
    let config: Value = read_json(&path)?;
    let checked = table.check_part(part, &config, &path).map_err(|error| EngineError::Content {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let Some((contents, problems)) = checked else {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("none");
        let reason = format!("`model_type` is {kind:?}, which has no {} of a LLaVA model", label(part));
        return Err(EngineError::Content { path, reason });
    };
    if problems.is_empty() {
        Ok(contents)
    } else {
        Err(EngineError::Run(problems))
    }
}

/// Returns the name of a part in messages.
fn label(part: Part) -> &'static str {
    match part {
        Part::Language => "language model",
        Part::Vision => "vision encoder",
        Part::Projection => "projector",
        Part::Adapter => "adapter",
    }
}
