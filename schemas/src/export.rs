//! Requests to export a model, and to merge adapters into one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Most bytes of tensors in one file, as transformers' `max_shard_size`. A larger tensor has its own file.
pub const MAX_SHARD_SIZE: u64 = 5_000_000_000;

/// Declares an enum whose values are words of the command line.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $word)] $value,)*
        }

        impl $name {
            /// Words of the values, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// Returns the word of the value.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$value),)*
                    _ => Err(format!("`{word}` is not one of {}", Self::WORDS.join(", "))),
                }
            }
        }
    };
}

words! {
    /// Format of an exported model.
    ExportFormat {
        /// A folder of Hugging Face's transformers: the whole model, adapters merged.
        Hf = "hf",
        /// A folder of Hugging Face's PEFT: adapters, and the other trained modules.
        HfPeft = "hf-peft",
        /// A checkpoint of this program with the whole model, adapters merged, from which a run starts.
        Neva = "neva",
        /// A folder of the original LLaVA's code: the whole model, adapters merged.
        Llava = "llava",
    }
}

words! {
    /// Names of tensors in Hugging Face's formats.
    NameLayout {
        /// Names in the hub's files, which are those in memory of transformers up to 4.51.
        Original = "original",
        /// Names in memory of transformers 5.
        Newer = "newer",
    }
}

words! {
    /// Program that reads an export.
    Reader {
        /// Hugging Face's transformers.
        Transformers = "transformers",
        /// Hugging Face's PEFT, on a base in transformers.
        Peft = "peft",
        /// vLLM's OpenAI-compatible server.
        Vllm = "vllm",
    }
}

words! {
    /// Data type of exported tensors.
    ExportDtype {
        /// 32 bits.
        Float32 = "float32",
        /// 16 bits with the range of `float32`.
        Bfloat16 = "bfloat16",
        /// 16 bits.
        Float16 = "float16",
    }
}

/// Request to `neva-rank export`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// A checkpoint; or a run's folder, for its newest checkpoint; or the folder of all runs of a name, for its newest run;
    /// or a folder of Hugging Face's transformers.
    pub checkpoint: PathBuf,
    /// Folder to create. `None`: `<checkpoint>/<format>`.
    pub out: Option<PathBuf>,
    /// Format.
    pub format: ExportFormat,
    /// Names of tensors. `None`: `original`, or `newer` for adapters that PEFT reads.
    pub names: Option<NameLayout>,
    /// Program that will read the export. `None`: transformers, or PEFT for adapters.
    pub reader: Option<Reader>,
    /// Folders of the base weights, if they are no longer where the run found them. Each is checked by its hash.
    pub base: Vec<PathBuf>,
    /// Data type of the tensors. `None`: that of the run's computation.
    pub dtype: Option<ExportDtype>,
    /// Most bytes of tensors in one file.
    pub max_shard_size: u64,
    /// Replaces an existing export.
    pub overwrite: bool,
    /// Computes the logits of the check also where every tensor has the bytes of the source.
    pub logits: bool,
}

impl ExportRequest {
    /// Returns the request for a format, with the default of everything else.
    pub fn new(checkpoint: impl Into<PathBuf>, format: ExportFormat) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            out: None,
            format,
            names: None,
            reader: None,
            base: Vec::new(),
            dtype: None,
            max_shard_size: MAX_SHARD_SIZE,
            overwrite: false,
            logits: false,
        }
    }

    /// Returns the reader.
    pub fn reader(&self) -> Reader {
        self.reader.unwrap_or(match self.format {
            ExportFormat::HfPeft => Reader::Peft,
            ExportFormat::Hf | ExportFormat::Neva | ExportFormat::Llava => Reader::Transformers,
        })
    }

    /// Returns the names of tensors.
    pub fn names(&self) -> NameLayout {
        self.names.unwrap_or(match (self.format, self.reader()) {
            (ExportFormat::HfPeft, Reader::Peft | Reader::Transformers) => NameLayout::Newer,
            _ => NameLayout::Original,
        })
    }
}

/// An adapter to merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightedAdapter {
    /// A checkpoint of a LoRA run, or a folder of PEFT.
    pub path: PathBuf,
    /// Factor of its change of the base.
    pub weight: f64,
}

/// Request to `neva-rank merge`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeRequest {
    /// Folder of the base weights. `None`: the base of the adapters, which a checkpoint names.
    pub base: Option<PathBuf>,
    /// The adapters.
    pub adapters: Vec<WeightedAdapter>,
    /// Folder to create.
    pub out: PathBuf,
    /// Names of tensors.
    pub names: NameLayout,
    /// Program that will read the model.
    pub reader: Reader,
    /// Data type of the tensors. `None`: that of the base's files.
    pub dtype: Option<ExportDtype>,
    /// Most bytes of tensors in one file.
    pub max_shard_size: u64,
    /// Replaces an existing model.
    pub overwrite: bool,
}
