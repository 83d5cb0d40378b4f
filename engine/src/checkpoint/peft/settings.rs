//! The settings of a run with exactly the adapters of a folder of PEFT.

use super::tensors::AdapterFile;
use super::{A, B, CONFIG, PREFIX, PeftFolder};
use crate::error::{EngineError, Result};
use neva_layout::ModelTable;
use neva_schemas::{LoRA, Peft};
use std::collections::BTreeMap;

impl PeftFolder {
    /// Returns the settings of adapters on the linears that have one in this folder, each with its rank and `alpha`. Nothing
    /// is frozen, so that the folder's other tensors replace those of the base.
    ///
    /// # Errors
    /// A file cannot be read, or a pattern of the config is no regular expression.
    pub fn settings(&self, table: &ModelTable) -> Result<Peft> {
        let config = &self.config;
        let mut lora = LoRA {
            dim: config.dim as usize,
            alpha: config.alpha,
            dropout: config.dropout,
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            freeze_language_model: false,
            freeze_vision_model: false,
            ..LoRA::default()
        };
        let file = AdapterFile::open(&self.path)?;
        let mut linears = BTreeMap::new();
        for (key, shape) in file.tensors() {
            let name = key.strip_prefix(PREFIX).and_then(|name| table.canonical_name(name));
            let Some(name) = name else { continue };
            // The rank is that of the tensors, whatever a pattern says.
            if let Some(linear) = name.strip_suffix(A) {
                linears.insert(linear.to_owned(), shape.first().copied().unwrap_or_default());
            } else if let Some(linear) = name.strip_suffix(B) {
                linears
                    .entry(linear.to_owned())
                    .or_insert(shape.last().copied().unwrap_or_default());
            }
        }
        for (linear, rank) in &linears {
            let spellings = [linear.clone(), table.hub_name(linear)];
            let (_, alpha) = config.of_linear(&spellings).map_err(|problems| EngineError::Content {
                path: self.path.join(CONFIG),
                reason: problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "),
            })?;
            let pattern = linear.replace('.', r"\.");
            if *rank != lora.dim {
                lora.rank_pattern.insert(pattern.clone(), *rank);
            }
            if alpha != lora.alpha {
                lora.alpha_pattern.insert(pattern, alpha);
            }
        }
        lora.target_modules = linears.into_keys().collect();
        Ok(Peft::LoRA(lora))
    }
}
