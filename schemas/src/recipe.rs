//! A recipe's arguments, and the run that it returns for them.

use crate::data::Data;
use crate::finetune::Finetune;
use crate::validate::{Problem, Validate, nonzero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Arguments of every fine-tuning recipe, at the top of a recipe file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeArgs {
    /// Folder that holds all runs.
    pub dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks per node.
    pub num_gpus_per_node: u32,
    /// `lora` trains adapters, `none` trains the model.
    pub peft_scheme: PeftScheme,
    /// Trains as NeMo's code does where that differs from its documents and from LLaVA: the vision encoder stays
    /// frozen, the loss is the mean of the micro-batches' means, no BOS stands in front of a sample.
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

/// What a recipe trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeftScheme {
    /// Low-rank adapters on the language model.
    Lora,
    /// The model itself.
    None,
}

/// One resolved run: which recipe, its arguments, and the graph that they and all overrides gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name of the recipe.
    #[serde(rename = "_factory_")]
    pub factory: String,
    /// Folder that holds all runs.
    pub dir: Option<PathBuf>,
    /// Name of the run.
    pub name: String,
    /// Number of nodes.
    pub num_nodes: u32,
    /// Ranks per node.
    pub num_gpus_per_node: u32,
    /// What the recipe trains.
    pub peft_scheme: PeftScheme,
    /// Trains as NeMo's code does.
    pub nemo_compat: bool,
    /// The graph.
    pub finetune: Finetune,
}

impl Run {
    /// Joins a recipe's arguments and the graph that they gave.
    pub fn new(factory: &str, args: RecipeArgs, finetune: Finetune) -> Self {
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
        .settled()
    }

    /// Fills what was left to depend on the rest.
    fn settled(mut self) -> Self {
        if let Data::Preloaded(data) = &mut self.finetune.data {
            data.add_bos.get_or_insert(!self.nemo_compat);
        }
        self
    }

    /// A run without a recipe: a graph that was put together in Rust.
    pub fn of(finetune: Finetune) -> Self {
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
            nemo_compat: false,
            finetune,
        }
        .settled()
    }
}

impl Validate for RecipeArgs {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.name.is_empty() {
            let path = if path.is_empty() {
                "name".to_owned()
            } else {
                format!("{path}.name")
            };
            problems.push(Problem::error(path, "`name` is empty"));
        }
        nonzero(
            path,
            problems,
            &[
                ("num_nodes", self.num_nodes.into()),
                ("num_gpus_per_node", self.num_gpus_per_node.into()),
            ],
        );
    }
}

impl Validate for Run {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let path = if path.is_empty() {
            "finetune".to_owned()
        } else {
            format!("{path}.finetune")
        };
        self.finetune.validate(&path, problems);
    }
}
