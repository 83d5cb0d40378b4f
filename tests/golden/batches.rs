//! Data module of the batches that were input to Hugging Face's code.
//!
//! In the files each placeholder is already repeated, rows are padded to the longest, and labels are at their tokens'
//! positions. A [`Sample`] has one [`IMAGE_TOKEN_INDEX`] per image, no padding, and labels at the same positions.

use neva_data::{DataError, Dataset, IGNORE_INDEX, IMAGE_TOKEN_INDEX, Pixels, Sample};
use neva_engine::checkpoint::{Artifacts, TensorFile};
use neva_engine::{DataModule, EngineError, Registry, Result, RunData};
use neva_schemas::{Finetune, LlavaModel};
use neva_tests::HF_BATCHES;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Returns `neva-rank`'s registry with this data module.
pub(crate) fn registry() -> Registry {
    Registry::builtin().data::<HfBatches>(HF_BATCHES)
}

/// A file of `batch<N>.input_ids`, `.attention_mask`, `.labels` and, if the batch has images, `.pixel_values`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HfBatches {
    path: PathBuf,
}

impl DataModule for HfBatches {
    /// Opens the concatenated rows of all batches, for training and validation.
    fn open(&self, finetune: &Finetune, _: Option<&Path>) -> Result<RunData> {
        let file = TensorFile::open(&self.path)?;
        let mut samples = Vec::new();
        for batch in 0.. {
            if !file.tensors().contains_key(&format!("batch{batch}.input_ids")) {
                break;
            }
            let model = finetune.model.as_llava();
            let model = model.ok_or_else(|| EngineError::Bug("a trace of a model that is no LLaVA".into()))?;
            samples.append(&mut rows(&file, &format!("batch{batch}"), model)?);
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

/// Returns the rows of one batch.
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
    let mut images = images(file, batch)?.into_iter();
    let mut samples = Vec::new();
    for (row, start) in (0..ids.len()).step_by(width).enumerate() {
        let kept = mask[start..start + width].iter().take_while(|kept| **kept == 1).count();
        if mask[start + kept..start + width].contains(&1) {
            return Err(wrong(format!("row {row} is not padded at the right")));
        }
        let within = start..start + kept;
        let name = format!("{batch} row {row}");
        samples.push(sample(name, &ids[within.clone()], &labels[within], &mut images, model).map_err(wrong)?);
    }
    match images.len() {
        0 => Ok(samples),
        more => Err(wrong(format!("{more} images have no placeholder"))),
    }
}

/// Converts one row, with each run of placeholders as one.
fn sample(
    name: String,
    ids: &[i64],
    labels: &[i64],
    images: &mut impl Iterator<Item = Pixels>,
    model: &LlavaModel,
) -> Result<Sample, String> {
    let (image, positions) = (model.image_token_index, model.image_seq_length());
    let mut sample = Sample {
        name,
        ids: Vec::new(),
        labels: Vec::new(),
        images: Vec::new(),
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
            return Err(format!("{}: {run} placeholders, an image has {positions}", sample.name));
        }
        let image = images
            .next()
            .ok_or_else(|| format!("{}: a placeholder has no image", sample.name))?;
        sample.ids.push(IMAGE_TOKEN_INDEX);
        sample.labels.push(IGNORE_INDEX);
        sample.images.push(image);
        at += positions;
    }
    Ok(sample)
}

/// Returns the images of one batch, in the order of their placeholders.
fn images(file: &TensorFile, batch: &str) -> Result<Vec<Pixels>> {
    let name = format!("{batch}.pixel_values");
    let tensors = file.tensors();
    let Some(&[_, channels, height, width]) = tensors.get(&name).map(Vec::as_slice) else {
        return Ok(Vec::new());
    };
    let values = Vec::<f32>::try_from(file.read(&name, None)?.flatten(0, -1))?;
    let images = values.chunks(channels * height * width);
    let pixels = |chw: &[f32]| Pixels {
        height,
        width,
        chw: chw.to_vec(),
    };
    Ok(images.map(pixels).collect())
}
