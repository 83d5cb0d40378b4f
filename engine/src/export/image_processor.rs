//! The image processor of an export.

use super::files::write_json;
use crate::checkpoint::{read_json, write_file};
use crate::error::Result;
use neva_data::{ImageProcessor, ModelProcessor};
use neva_layout::ModelTable;
use neva_schemas::{Finetune, ImageDataConfig, ImageProcessMode};
use serde_json::Value;
use std::path::Path;

/// The file of an image processor.
pub(super) const IMAGE_PROCESSOR: &str = "preprocessor_config.json";
/// The file of a processor, in which transformers 5 nests the image processor.
pub(super) const PROCESSOR: &str = "processor_config.json";

/// Writes the image processor of the run: that of its files, else the values of the vision encoder's family. One that was
/// used with padding to a square pads itself, as transformers' `LlavaImageProcessor` does.
pub(super) fn image_processor(finetune: &Finetune, table: &ModelTable, folder: &Path) -> Result<()> {
    let found = ImageProcessor::file_in(folder);
    let has_file = found.is_some();
    let processor = ModelProcessor::of_model(&table.description, has_file.then_some(folder))?;
    let pads = data_config(finetune).is_some_and(|config| config.image_process_mode == ImageProcessMode::Pad);
    let own = processor.processor.clone();
    let content = if pads && !own.pads && own.tiling.is_none() {
        let padded = ImageProcessor { pads: true, ..own };
        format!("{:#}\n", padded.to_json()).into_bytes()
    } else if has_file {
        return Ok(());
    } else {
        processor.file().1
    };
    write_file(&folder.join(IMAGE_PROCESSOR), &content)?;
    nest_processor(folder)
}

/// Writes the image processor of the run into the base's `processor_config.json`, which transformers reads first.
pub(super) fn nest_processor(folder: &Path) -> Result<()> {
    let path = folder.join(PROCESSOR);
    if !path.is_file() {
        return Ok(());
    }
    let mut content: Value = read_json(&path)?;
    let Some(nested) = content.get_mut("image_processor").filter(|nested| nested.is_object()) else {
        return Ok(());
    };
    *nested = read_json(&folder.join(IMAGE_PROCESSOR))?;
    write_json(&path, &content)
}

/// Returns the settings of the run's data, if it has text and images.
pub(super) fn data_config(finetune: &Finetune) -> Option<ImageDataConfig> {
    finetune.data.text_settings().map(|(config, _)| config)
}
