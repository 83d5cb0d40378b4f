//! Kinds of adapters that are known by name, but not computed.

use neva_schemas::Problem;
use serde_json::Value;
use std::path::Path;

/// PEFT's names of other kinds, and what their authors call them.
const KINDS: &[(&str, &str)] = &[
    ("ADALORA", "AdaLoRA"),
    ("ADAPTION_PROMPT", "LLaMA-Adapter"),
    ("BOFT", "BOFT"),
    ("FOURIERFT", "FourierFT"),
    ("HRA", "HRA"),
    ("IA3", "(IA)³"),
    ("LN_TUNING", "LayerNorm tuning"),
    ("LOHA", "LoHa"),
    ("LOKR", "LoKr"),
    ("MULTITASK_PROMPT_TUNING", "multitask prompt tuning"),
    ("OFT", "OFT"),
    ("P_TUNING", "P-tuning"),
    ("POLY", "Poly"),
    ("PREFIX_TUNING", "prefix tuning"),
    ("PROMPT_TUNING", "prompt tuning"),
    ("VBLORA", "VB-LoRA"),
    ("VERA", "VeRA"),
    ("XLORA", "X-LoRA"),
];

/// Returns a sentence about an adapter that is not LoRA.
pub(super) fn kind_problem(config: &Value) -> Option<String> {
    const SUPPORTED: &str = "this program trains, reads and merges LoRA (`peft_type` \"LORA\"), also with rsLoRA and DoRA";
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => None,
        Some(kind) => {
            let name = KINDS.iter().find(|(own, _)| *own == kind).map(|(_, name)| format!(" ({name})"));
            Some(format!("the adapter's kind is {kind:?}{}: {SUPPORTED}", name.unwrap_or_default()))
        }
        None => Some(format!("`peft_type` is {}: {SUPPORTED}", config["peft_type"])),
    }
}

/// File of the original LLaVA code beside its adapters: the trained parameters that are not LoRA's.
pub const LLAVA_NON_LORA: &str = "non_lora_trainables.bin";

/// Returns the problem of an adapter folder of the original LLaVA code, whose names are its own. `config` is the
/// `config.json` beside the adapter, if there is one; `has_non_lora` tells whether [`LLAVA_NON_LORA`] is there.
pub fn llava_adapter(setting: &str, folder: &Path, config: Option<&Value>, has_non_lora: bool) -> Option<Problem> {
    let own = has_non_lora || config.is_some_and(is_llava_config);
    own.then(|| {
        let message = format!(
            "{} is an adapter of the original LLaVA code, which has its own names and files",
            folder.display()
        );
        let help = format!("convert it first: neva-run import {}", folder.display());
        Problem::error(setting, message).help(help)
    })
}

fn is_llava_config(config: &Value) -> bool {
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    config.get("mm_hidden_size").is_some() || config.get("mm_projector_type").is_some() || kind.starts_with("llava_")
}
