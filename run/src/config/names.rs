//! NeMo-Run's names of types and recipes, in addition to this program's.
//!
//! | written | means |
//! |---|---|
//! | `llm.peft.LoRA`, `nemo.collections.vlm.LoRA` | `vlm.LoRA`: a Python module path that ends in the same class |
//! | `nl.lr_scheduler.CosineAnnealingScheduler` | `CosineAnnealing`: a class that has another name here |
//! | `nl.Trainer` where a trainer is expected | the expected type |
//! | `vlm.llava15_7b.finetune_recipe` | the recipe `llava15_7b` |

use neva_schemas::TextConfig;

use super::node::CONFIG;

/// First modules of Python paths.
const MODULES: &[&str] = &[
    "nemo",
    "nemo_run",
    "nl",
    "llm",
    "vlm",
    "run",
    "megatron",
    "mcore",
    "lightning",
    "pytorch_lightning",
    "pl",
    "torch",
    "optim",
    "fdl",
];

/// NeMo's names of classes that have another name here, and the names here.
const CLASSES: &[(&str, &str)] = &[
    ("CosineAnnealingScheduler", "CosineAnnealing"),
    ("get_cosine_schedule_with_warmup", "CosineWithWarmup"),
    ("get_linear_schedule_with_warmup", "LinearWithWarmup"),
    ("get_wsd_schedule", "WSD"),
    ("NeMoLogger", "Log"),
];

/// Classes whose values fill a struct: a map that names one of them replaces the fields of a recipe.
const WHOLE_CONFIGS: &[&str] = &[
    "CLIPViTL_14_336_Config",
    "HFCLIPVisionConfig",
    "InternViT_300M_448px_Config",
    "InternViT_6B_448px_Config",
    "SigLIPViT400M_14_384_Config",
];

/// Returns true if a class sets all fields of a struct.
pub(super) fn is_whole_config(name: &str) -> bool {
    let name = class(name).unwrap_or(name);
    WHOLE_CONFIGS.contains(&name) || TextConfig::presets().iter().any(|(preset, _)| *preset == name)
}

/// Classes that take their fields from an argument `config`: `vlm.LlavaModel(config=vlm.Llava15Config7B())`.
const CONFIGURED: &[&str] = &["CLIPViTModel", "InternViTModel", "LlavaModel", "NevaModel", "SigLIPViTModel"];

/// Returns true if a class may take its fields from an argument `config`.
pub(super) fn takes_config(name: &str) -> bool {
    CONFIGURED.contains(&class(name).unwrap_or(name))
}

/// Returns the name of the argument that a call of a class may give first, without its name, as NeMo's documents do.
pub(super) fn first_argument(name: &str) -> Option<&'static str> {
    match class(name).unwrap_or(name) {
        "HFCLIPVisionConfig" => Some("pretrained_model_name_or_path"),
        name => CONFIGURED.contains(&name).then_some(CONFIG),
    }
}

/// Returns the class of a Python path; `None` for any other text.
pub(super) fn class(name: &str) -> Option<&str> {
    let (modules, class) = name.rsplit_once('.')?;
    let first = modules.split('.').next()?;
    (MODULES.contains(&first) && !name.contains(':')).then_some(class)
}

/// Returns true if `text` has the form of a class name: `optim.AdamW`, `CosineAnnealing`, `my_crate::MyDecoder`.
pub(super) fn is_class_form(text: &str) -> bool {
    let last = text.rsplit(['.', ':']).next().unwrap_or_default();
    last.starts_with(|c: char| c.is_ascii_uppercase()) && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'))
}

/// Returns the name among `names` of which `name` is another spelling.
pub(super) fn canonical<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let Some(wanted) = class(name) else {
        // NeMo accepts `LoRA` and `None` of `peft_scheme` in any case.
        return names.iter().copied().find(|known| known.eq_ignore_ascii_case(name));
    };
    let end = |known: &str| known.rsplit('.').next().map(str::to_owned);
    let ours = CLASSES.iter().filter(|(theirs, _)| *theirs == wanted).map(|(_, ours)| *ours);
    let mut candidates = std::iter::once(wanted).chain(ours);
    candidates.find_map(|wanted| names.iter().copied().find(|known| end(known).as_deref() == Some(wanted)))
}

/// Returns true if `name` names the struct that Rust calls `type_name`.
pub(super) fn names_struct(name: &str, type_name: &str) -> bool {
    !type_name.is_empty() && canonical(name, &[type_name]).is_some()
}

/// Returns true if both name the same type.
pub(super) fn same(a: &str, b: &str) -> bool {
    a == b || canonical(a, &[b]).is_some() || canonical(b, &[a]).is_some()
}

/// Returns the recipe of a Python function: `vlm.llava15_7b.finetune_recipe`.
pub(crate) fn recipe(name: &str) -> Option<String> {
    let (modules, function) = name.rsplit_once('.')?;
    let module = modules.rsplit('.').next()?;
    match function {
        "finetune_recipe" => Some(module.to_owned()),
        "pretrain_recipe" => Some(format!("{module}_pretrain")),
        _ => None,
    }
}
