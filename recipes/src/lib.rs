//! Recipes: functions from a few arguments to a full, typed fine-tuning run.
//!
//! A recipe states its defaults and nothing else; whatever a user wants otherwise is an override of the
//! graph that it returns. This crate does no I/O. The `*.yaml` files beside it are what a user runs: each
//! names one of these functions and its arguments.
#![forbid(unsafe_code)]

mod llava15;
pub mod llava15_13b;
pub mod llava15_7b;
pub mod llava15_7b_pretrain;
mod nemo;
pub mod neva_llama3_8b;
pub mod neva_tiny;

/// The name by which some documents call the 13B recipe; NeMo has no function of this name.
pub use llava15_13b as llava15_11b;
use neva_schemas::{Finetune, RecipeArgs};

/// One recipe, under the name that a file's `_factory_` and the command line give it.
#[derive(Debug, Clone, Copy)]
pub struct RecipeEntry {
    /// Name.
    pub name: &'static str,
    /// What it trains, in one line.
    pub summary: &'static str,
    /// What whoever uses this name is told, as a warning.
    pub notice: Option<&'static str>,
    /// The file that a user copies and runs, with comments.
    pub yaml: &'static str,
    /// Arguments that a file leaves out.
    pub default_args: fn() -> RecipeArgs,
    /// The recipe.
    pub finetune: fn(RecipeArgs) -> Finetune,
}

/// Every recipe, in the order in which they are listed.
pub const RECIPES: &[RecipeEntry] = &[
    RecipeEntry {
        name: "llava15_7b",
        summary: "LLaVA-1.5 7B (CLIP ViT-L/14-336, Llama-2-7B), bf16, from llava-hf's weights, on mock data",
        notice: None,
        yaml: include_str!("../llava15_7b.yaml"),
        default_args: llava15_7b::default_args,
        finetune: llava15_7b::finetune_recipe,
    },
    RecipeEntry {
        name: "llava15_13b",
        summary: "LLaVA-1.5 13B (CLIP ViT-L/14-336, Llama-2-13B), bf16, from llava-hf's weights, on mock data",
        notice: None,
        yaml: include_str!("../llava15_13b.yaml"),
        default_args: llava15_13b::default_args,
        finetune: llava15_13b::finetune_recipe,
    },
    RecipeEntry {
        name: "llava15_11b",
        summary: "another name of llava15_13b",
        notice: Some("there is no LLaVA-1.5 11B: this recipe is `llava15_13b`"),
        yaml: include_str!("../llava15_11b.yaml"),
        default_args: llava15_11b::default_args,
        finetune: llava15_11b::finetune_recipe,
    },
    RecipeEntry {
        name: "llava15_7b_pretrain",
        summary: "the projector of LLaVA-1.5 7B alone, language and vision models frozen, bf16, on mock data",
        notice: None,
        yaml: include_str!("../llava15_7b_pretrain.yaml"),
        default_args: llava15_7b_pretrain::default_args,
        finetune: llava15_7b_pretrain::pretrain_recipe,
    },
    RecipeEntry {
        name: "neva_llama3_8b",
        summary: "NeVA over Llama-3-8B (CLIP ViT-L/14-336, frozen), bf16, from fresh weights, on mock data",
        notice: None,
        yaml: include_str!("../neva_llama3_8b.yaml"),
        default_args: neva_llama3_8b::default_args,
        finetune: neva_llama3_8b::finetune_recipe,
    },
    RecipeEntry {
        name: "neva_tiny",
        summary: "a NeVA of about 2 million parameters, fp32, from fresh weights: trains in seconds on a CPU",
        notice: None,
        yaml: include_str!("../neva_tiny.yaml"),
        default_args: neva_tiny::default_args,
        finetune: neva_tiny::finetune_recipe,
    },
];

/// The recipe called `name`.
pub fn find(name: &str) -> Option<&'static RecipeEntry> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}
