//! The settings of a run with exactly the adapters of a PEFT folder.

use super::peft::{A, PREFIX, PeftFolder, WEIGHTS};
use super::safetensors_file::TensorFile;
use crate::error::Result;
use neva_layout::ModelTable;
use neva_schemas::{LoRA, Peft};
use std::collections::BTreeSet;

impl PeftFolder {
    /// Returns the settings of adapters on the linears that have one in this folder. Nothing is frozen, so that the folder's
    /// other tensors replace those of the base.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn settings(&self, table: &ModelTable) -> Result<Peft> {
        let file = TensorFile::open(&self.path.join(WEIGHTS))?;
        let linear = |key: &String| {
            let name = table.canonical_name(key.strip_prefix(PREFIX)?)?;
            name.strip_suffix(A).map(str::to_owned)
        };
        let linears: BTreeSet<_> = file.tensors().keys().filter_map(linear).collect();
        Ok(Peft::LoRA(LoRA {
            target_modules: linears.into_iter().collect(),
            dim: self.config.dim as usize,
            alpha: self.config.alpha,
            freeze_language_model: false,
            freeze_vision_model: false,
            ..LoRA::default()
        }))
    }
}
