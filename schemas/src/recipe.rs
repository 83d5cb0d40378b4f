//! Arguments of a recipe, and the run that they resolve to.

use crate::data::Data;
use crate::finetune::Finetune;
use crate::validate::{Problem, Validate, field, named_folder, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Arguments of every fine-tuning recipe, at the top of a recipe file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeArgs {
    /// Folder of all runs.
    pub dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks per node.
    pub num_gpus_per_node: u32,
    /// `lora` trains adapters, `none` trains the model itself.
    pub peft_scheme: PeftScheme,
    /// Follows NeMo's code where it differs from its documentation and from LLaVA: the vision encoder is frozen, the loss
    /// is the mean of the microbatch means, samples do not start with BOS.
    pub nemo_compat: bool,
}

impl Default for RecipeArgs {
    fn default() -> Self {
        Self {
            dir: None,
            name: "default".into(),
            num_nodes: 1,
            num_gpus_per_node: 8,
            peft_scheme: PeftScheme::Lora,
            nemo_compat: false,
        }
    }
}

/// Part of the model that a recipe trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeftScheme {
    /// Low-rank adapters on the language model.
    Lora,
    /// The model itself.
    None,
}

/// One resolved run: the recipe's name, its arguments, and the resulting graph with all overrides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name of the recipe.
    #[serde(rename = "_factory_")]
    pub factory: String,
    /// Folder of all runs.
    pub dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks per node.
    pub num_gpus_per_node: u32,
    /// `lora` trains adapters, `none` trains the model itself.
    pub peft_scheme: PeftScheme,
    /// Follows NeMo's code.
    pub nemo_compat: bool,
    /// The graph.
    pub finetune: Finetune,
}

impl Run {
    /// Combines a recipe's arguments and the resulting graph.
    pub fn new(factory: &str, args: RecipeArgs, mut finetune: Finetune) -> Self {
        finetune.nemo_compat = false;
        Self {
            factory: factory.into(),
            dir: args.dir,
            name: args.name,
            num_nodes: args.num_nodes,
            num_gpus_per_node: args.num_gpus_per_node,
            peft_scheme: args.peft_scheme,
            nemo_compat: args.nemo_compat,
            finetune,
        }
        .with_dependent_defaults()
    }

    /// Fills in defaults that depend on other fields.
    fn with_dependent_defaults(mut self) -> Self {
        // Without it, the tokenizer's files say whether it adds BOS.
        let default = self.nemo_compat.then_some(false);
        match &mut self.finetune.data {
            Data::Preloaded(data) => data.add_bos = data.add_bos.or(default),
            Data::Energon(data) => data.add_bos = data.add_bos.or(default),
            Data::Mock(_) | Data::Custom(_) => {}
        }
        self
    }

    /// Creates a run without a recipe, from a graph built in Rust.
    pub fn from_finetune(mut finetune: Finetune) -> Self {
        // From here on the run holds this flag, so that it is equal after it is read back.
        let nemo_compat = std::mem::take(&mut finetune.nemo_compat);
        Self {
            factory: "custom".into(),
            dir: finetune.log.log_dir.clone(),
            name: finetune.log.name.clone(),
            num_nodes: finetune.trainer.num_nodes,
            num_gpus_per_node: finetune.trainer.devices,
            peft_scheme: if finetune.peft.is_some() {
                PeftScheme::Lora
            } else {
                PeftScheme::None
            },
            nemo_compat,
            finetune,
        }
        .with_dependent_defaults()
    }
}

impl Validate for RecipeArgs {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        // The logger validates the rest of the name, together with the graph.
        if self.name.is_empty() {
            problems.push(Problem::error(field(path, "name"), "the name is empty"));
        }
        nonzero(
            path,
            problems,
            &[
                ("num_nodes", self.num_nodes.into()),
                ("num_gpus_per_node", self.num_gpus_per_node.into()),
            ],
        );
        named_folder(path, problems, "dir", self.dir.as_deref());
    }
}

impl Validate for Run {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        named_folder(path, problems, "dir", self.dir.as_deref());
        self.finetune.validate(&field(path, "finetune"), problems);
    }
}
