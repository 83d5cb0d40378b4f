//! Recipes: functions from a few arguments to a full, typed fine-tuning run.
//!
//! A recipe defines only its defaults; a user changes them with overrides of the graph that it returns. This
//! crate does no I/O. The `*.yaml` files beside it are what a user runs: each names one of these functions
//! and its arguments.
#![forbid(unsafe_code)]

mod llava15;
pub mod llava15_13b;
pub mod llava15_7b;
pub mod llava15_7b_pretrain;
mod nemo;
pub mod neva_llama3_8b;
pub mod neva_tiny;
pub mod precision;

/// Name of the 13B recipe in some documents; NeMo has no function of this name.
pub use llava15_13b as llava15_11b;
use neva_schemas::{Finetune, RecipeArgs};

/// A recipe, by its name in `_factory_` and on the command line.
#[derive(Debug, Clone, Copy)]
pub struct RecipeEntry {
    /// Name.
    pub name: &'static str,
    /// Summary in one line.
    pub summary: &'static str,
    /// Warning for users of this name.
    pub notice: Option<&'static str>,
    /// The commented file for users to copy and run.
    pub yaml: &'static str,
    /// Default arguments.
    pub default_args: fn() -> RecipeArgs,
    /// The recipe function.
    pub finetune: fn(RecipeArgs) -> Finetune,
}

/// All recipes, in the order of listings.
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
        summary: "a fresh projector between a frozen CLIP ViT-L/14-336 and a frozen Vicuna-7B, bf16, on captions",
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

/// Returns the recipe called `name`.
pub fn find(name: &str) -> Option<&'static RecipeEntry> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}
