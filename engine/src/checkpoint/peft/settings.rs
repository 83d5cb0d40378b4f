//! The settings of a run with exactly the adapters of a folder.

use super::tensors::AdapterFile;
use super::{A, PREFIX, PeftFolder};
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
        let file = AdapterFile::open(&self.path)?;
        let linear = |key: &String| {
            let name = table.canonical_name(key.strip_prefix(PREFIX)?)?;
            name.strip_suffix(A).map(str::to_owned)
        };
        let linears: BTreeSet<_> = file.tensors().keys().filter_map(linear).collect();
        let config = &self.config;
        let ranks = config.rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), *rank as usize));
        Ok(Peft::LoRA(LoRA {
            target_modules: linears.into_iter().collect(),
            dim: config.dim as usize,
            alpha: config.alpha,
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            rank_pattern: ranks.collect(),
            alpha_pattern: config.alpha_pattern.clone(),
            freeze_language_model: false,
            freeze_vision_model: false,
            ..LoRA::default()
        }))
    }
}
