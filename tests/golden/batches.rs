//! Batches as Hugging Face's code was given them, as a data module.
//!
//! There each placeholder is already repeated, rows are padded to the longest, and labels stand at their tokens'
//! positions. A [`Sample`] has one [`IMAGE`] for each picture, no padding, and labels in the same places.

use neva_data::{DataError, Dataset, IGNORE, IMAGE, Pixels, Sample};
use neva_engine::checkpoint::{Artifacts, TensorFile};
use neva_engine::{DataModule, EngineError, Registry, Result, RunData};
use neva_schemas::{Finetune, LlavaModel};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name that recipes call the module by.
pub(crate) const TARGET: &str = "golden::HfBatches";

/// What `neva-rank` knows, and the batches.
pub(crate) fn registry() -> Registry {
    Registry::builtin().data::<HfBatches>(TARGET)
}

/// A file of `batch<N>.input_ids`, `.attention_mask`, `.labels` and, where the batch has pictures, `.pixel_values`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HfBatches {
    path: PathBuf,
}

impl DataModule for HfBatches {
    /// The rows of all batches, one behind the other, to train and to validate on.
    fn open(&self, finetune: &Finetune, _: Option<&Path>) -> Result<RunData> {
        let file = TensorFile::open(&self.path)?;
        let mut samples = Vec::new();
        for batch in 0.. {
            if !file.tensors().contains_key(&format!("batch{batch}.input_ids")) {
                break;
            }
            samples.append(&mut rows(&file, &format!("batch{batch}"), finetune.model.llava())?);
        }
        let dataset: Arc<dyn Dataset> = Arc::new(Rows(samples));
        Ok(RunData {
            train: dataset.clone(),
            val: Some(dataset),
            artifacts: Artifacts::new(),
        })
    }
}

struct Rows(Vec<Sample>);

impl Dataset for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let len = self.len();
        self.0.get(index).cloned().ok_or(DataError::Index { index, len })
    }

    fn name(&self, index: usize) -> String {
        self.0.get(index).map_or_else(|| format!("no row {index}"), |row| row.name.clone())
    }
}

/// The rows of one batch.
fn rows(file: &TensorFile, batch: &str, model: &LlavaModel) -> Result<Vec<Sample>> {
    let wrong = |reason: String| EngineError::Content {
        path: file.path().to_owned(),
        reason: format!("{batch}: {reason}"),
    };
    let integers = |name: &str| -> Result<(usize, Vec<i64>)> {
        let tensor = file.read(&format!("{batch}.{name}"), None)?;
        let width = tensor.size().last().map_or(0, |width| *width as usize);
        Ok((width, Vec::try_from(tensor.flatten(0, -1))?))
    };
    let (width, ids) = integers("input_ids")?;
    let (mask, labels) = (integers("attention_mask")?.1, integers("labels")?.1);
    if width == 0 || mask.len() != ids.len() || labels.len() != ids.len() {
        return Err(wrong("the tensors have no rows, or differ in shape".into()));
    }
    let mut pictures = pictures(file, batch)?.into_iter();
    let mut samples = Vec::new();
    for (row, start) in (0..ids.len()).step_by(width).enumerate() {
        let kept = mask[start..start + width].iter().take_while(|kept| **kept == 1).count();
        if mask[start + kept..start + width].contains(&1) {
            return Err(wrong(format!("row {row} is not padded at the right")));
        }
        let within = start..start + kept;
        let name = format!("{batch} row {row}");
        samples.push(sample(name, &ids[within.clone()], &labels[within], &mut pictures, model).map_err(wrong)?);
    }
    match pictures.len() {
        0 => Ok(samples),
        more => Err(wrong(format!("{more} pictures have no placeholder"))),
    }
}

/// One row, its placeholders taken together.
fn sample(
    name: String,
    ids: &[i64],
    labels: &[i64],
    pictures: &mut impl Iterator<Item = Pixels>,
    model: &LlavaModel,
) -> Result<Sample, String> {
    let (image, positions) = (model.image_token_index, model.image_seq_length());
    let mut sample = Sample {
        name,
        ids: Vec::new(),
        labels: Vec::new(),
        pictures: Vec::new(),
    };
    let mut at = 0;
    while at < ids.len() {
        if ids[at] != image {
            sample.ids.push(ids[at]);
            sample.labels.push(labels[at]);
            at += 1;
            continue;
        }
        let run = ids[at..].iter().take(positions).take_while(|id| **id == image).count();
        if run < positions {
            return Err(format!("{}: {run} placeholders of a picture's {positions}", sample.name));
        }
        let picture = pictures
            .next()
            .ok_or_else(|| format!("{}: a placeholder has no picture", sample.name))?;
        sample.ids.push(IMAGE);
        sample.labels.push(IGNORE);
        sample.pictures.push(picture);
        at += positions;
    }
    Ok(sample)
}

/// The pictures of one batch, in the order of their placeholders.
fn pictures(file: &TensorFile, batch: &str) -> Result<Vec<Pixels>> {
    let name = format!("{batch}.pixel_values");
    let tensors = file.tensors();
    let Some(&[_, channels, height, width]) = tensors.get(&name).map(Vec::as_slice) else {
        return Ok(Vec::new());
    };
    let values = Vec::<f32>::try_from(file.read(&name, None)?.flatten(0, -1))?;
    let pictures = values.chunks(channels * height * width);
    let pixels = |chw: &[f32]| Pixels {
        height,
        width,
        chw: chw.to_vec(),
    };
    Ok(pictures.map(pixels).collect())
}
