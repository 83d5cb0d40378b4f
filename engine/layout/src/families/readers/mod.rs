//! What other programs make of the tensors of an export. These tables come from the sources of the readers and do not use
//! those that an export is written with, so that a wrong name of one is found by the other.

mod llava_code;
mod transformers;
mod vllm;

pub use vllm::VLLM_VERSION;

use super::table::ModelTable;
use neva_schemas::{ExportFormat, NameLayout, Reader};

/// The place in a model where a reader puts a tensor. Names are canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReaderSlot {
    /// A parameter of the model.
    Parameter(String),
    /// A of the adapter of this linear.
    A(String),
    /// B of the adapter of this linear.
    B(String),
    /// The magnitude of the adapter of this linear (DoRA).
    Magnitude(String),
}

/// Files of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportedFiles {
    /// A whole model.
    Model,
    /// Adapters, and modules that are saved with them.
    Adapter,
}

/// Prefix of the names in PEFT's files: the wrapper and the wrapped model.
const PEFT: &str = "base_model.model.";

/// Ending of the magnitude of an adapter (DoRA), which vLLM does not have.
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// Ending of a name, and the slot of the rest of the name.
type Ending = (&'static str, fn(String) -> ReaderSlot);

/// Endings of the tensors of an adapter in PEFT's files.
const ENDINGS: [Ending; 3] = [
    (".lora_A.weight", ReaderSlot::A),
    (".lora_B.weight", ReaderSlot::B),
    (MAGNITUDE, ReaderSlot::Magnitude),
];

impl ModelTable {
    /// Returns where `reader` puts the tensor `key` of a file; `None` if it puts it nowhere.
    pub fn reader_slot(
        &self,
        (format, names, reader): (ExportFormat, NameLayout, Reader),
        files: ExportedFiles,
        key: &str,
    ) -> Option<ReaderSlot> {
        let parameter = |name: &str| match (format, reader) {
            (ExportFormat::Llava, _) => self.in_llava_code(name),
            (ExportFormat::Neva, _) => Some(name.to_owned()),
            (_, Reader::Vllm) => self.in_vllm(name),
            (_, Reader::Transformers | Reader::Peft) => self.in_transformers(names, name),
        };
        if files == ExportedFiles::Model {
            return parameter(key).map(ReaderSlot::Parameter);
        }
        let name = key.strip_prefix(PEFT)?;
        for (ending, slot) in ENDINGS {
            let Some(module) = name.strip_suffix(ending) else { continue };
            if reader == Reader::Vllm && (ending == MAGNITUDE || !self.is_adapted_in_vllm(module)) {
                return None;
            }
            // A module is known by its weight.
            let weight = parameter(&format!("{module}.weight"))?;
            return Some(slot(weight.strip_suffix(".weight")?.to_owned()));
        }
        // vLLM takes no other tensors of an adapter's files.
        match reader {
            Reader::Vllm => None,
            Reader::Transformers | Reader::Peft => parameter(name).map(ReaderSlot::Parameter),
        }
    }
}
