//! Checks of the adapters' settings that need no model.

use super::lora::{ALL_LINEAR, DropoutPosition, LoRA, LoraInit};
use crate::validate::{Problem, Validate, nonzero};

/// Modules that fuse linears: a canonical adapter belongs to one of them.
const FUSED: [(&str, &str); 2] = [
    ("linear_qkv", "linear_q, linear_k, linear_v"),
    ("linear_fc1", "linear_fc1_gate, linear_fc1_up"),
];

impl Validate for LoRA {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        nonzero(path, problems, &[("dim", self.dim as u64)]);
        self.check_numbers(path, problems);
        self.check_targets(path, problems);
        self.check_combinations(path, problems);
    }
}

impl LoRA {
    fn check_numbers(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut error = |name: &str, message: String| problems.push(Problem::error(format!("{path}.{name}"), message));
        if !is_positive(self.alpha) {
            error("alpha", format!("`alpha` is {}, it must be above 0", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            error(
                "dropout",
                format!("`dropout` is {}, it must be at least 0 and below 1", self.dropout),
            );
        }
        for pattern in self.rank_pattern.iter().filter(|(_, rank)| **rank == 0).map(|(pattern, _)| pattern) {
            error("rank_pattern", format!("the rank of {pattern:?} is 0, it must be above 0"));
        }
        for (pattern, alpha) in self.alpha_pattern.iter().filter(|(_, alpha)| !is_positive(**alpha)) {
            error("alpha_pattern", format!("`alpha` of {pattern:?} is {alpha}, it must be above 0"));
        }
        if (self.lora_a_init, self.lora_b_init) == (LoraInit::Zero, LoraInit::Zero) {
            let message = "A and B both start at 0: neither would ever get a gradient".to_owned();
            problems.push(Problem::error(format!("{path}.lora_A_init"), message).help("set it to xavier, NeMo's default"));
        }
    }

    fn check_targets(&self, path: &str, problems: &mut Vec<Problem>) {
        let lists = [
            ("target_modules", &self.target_modules),
            ("exclude_modules", &self.exclude_modules),
            ("modules_to_save", &self.modules_to_save),
        ];
        for (name, list) in lists {
            for (index, target) in list.iter().enumerate().filter(|(_, target)| target.parse::<f64>().is_ok()) {
                let message = format!("`{target}` is a number, not the name of a module");
                let help = "write a last component, such as linear_qkv, or a wildcard on the full name";
                problems.push(Problem::error(format!("{path}.{name}[{index}]"), message).help(help));
            }
        }
        if !self.exclude_modules.is_empty() && !self.targets_all() {
            let message = "`exclude_modules` needs empty `target_modules`, as in NeMo: a list of targets excludes all others";
            problems.push(
                Problem::error(format!("{path}.exclude_modules"), message)
                    .help("set target_modules=[], or leave the modules out of target_modules"),
            );
        }
        if !self.targets_all() && self.target_modules.iter().any(|target| target == ALL_LINEAR) {
            let message = format!("`{ALL_LINEAR}` stands for every linear, but other targets are named beside it");
            problems.push(Problem::error(format!("{path}.target_modules"), message).help("name only one of the two"));
        }
        let last = |target: &String| target.rsplit('.').next().unwrap_or_default().to_owned();
        for (fused, linears) in FUSED.iter().filter(|_| self.canonical) {
            if self.target_modules.iter().any(|target| last(target) == *fused) {
                let message =
                    format!("`{fused}` is a fused module, but the adapters of llm.peft.CanonicalLoRA are those of single linears");
                let help = format!("name {linears}, or use vlm.LoRA");
                problems.push(Problem::error(format!("{path}.target_modules"), message).help(help));
            }
        }
    }

    fn check_combinations(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut error = |name: &str, message: &str, help: &str| {
            problems.push(Problem::error(format!("{path}.{name}"), message).help(help));
        };
        if self.use_dora && self.dropout > 0.0 && self.dropout_position == DropoutPosition::Post {
            error(
                "dropout_position",
                "DoRA has dropout on the input of the adapters only, but `dropout_position` is post",
                "set it to pre, NeMo's default",
            );
        }
        if self.quantization.is_some() && !self.freeze_language_model {
            error(
                "quantization",
                "weights in 4 bits cannot be trained, but `freeze_language_model` is false",
                "set finetune.peft.freeze_language_model=true, or quantization=null",
            );
        }
        if self.a2a_experimental {
            error(
                "a2a_experimental",
                "`a2a_experimental` replaces an all-gather of NeMo's adapters by an all-to-all, but the adapters of this program \
                 gather nothing: A is on every rank",
                "set it to false: losses are the same",
            );
        }
        if let Some(alpha) = self.network_alpha {
            let message =
                format!("`network_alpha` is {alpha}: it is a scale of diffusion models' adapters, which NeMo's LoRA of LLaVA ignores");
            error("network_alpha", &message, "set it to null, and alpha to the scale's numerator");
        }
    }
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Peft;
    use serde_json::{Value, json};

    fn problems(peft: Value) -> Vec<String> {
        let peft: Peft = serde_json::from_value(peft).unwrap_or_else(|error| panic!("{error}"));
        let mut problems = Vec::new();
        peft.lora().validate("peft", &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_and_supported_combinations_have_no_problem() {
        for (scheme, settings) in [
            ("vlm.LoRA", json!({})),
            ("llm.peft.CanonicalLoRA", json!({})),
            ("llm.peft.DoRA", json!({})),
            ("vlm.LoRA", json!({ "target_modules": [], "exclude_modules": ["linear_qkv"] })),
            (
                "vlm.LoRA",
                json!({ "target_modules": ["all-linear"], "exclude_modules": ["lm_head"] }),
            ),
            (
                "vlm.LoRA",
                json!({ "dropout": 0.1, "dropout_position": "post", "use_rslora": true, "lora_A_init": "uniform" }),
            ),
            ("vlm.LoRA", json!({ "use_dora": true, "dropout": 0.1, "quantization": "nf4" })),
        ] {
            assert_eq!(problems(json!({ scheme: settings })), [""; 0], "{scheme} {settings}");
        }
    }

    #[test]
    fn wrong_settings_are_named_with_the_fix() {
        for (scheme, settings, path, fix) in [
            ("vlm.LoRA", json!({ "alpha": 0 }), "peft.alpha", "above 0"),
            ("vlm.LoRA", json!({ "dropout": 1.0 }), "peft.dropout", "below 1"),
            (
                "vlm.LoRA",
                json!({ "rank_pattern": { "q_proj": 0 } }),
                "peft.rank_pattern",
                "above 0",
            ),
            (
                "vlm.LoRA",
                json!({ "alpha_pattern": { "q_proj": -1.0 } }),
                "peft.alpha_pattern",
                "above 0",
            ),
            ("vlm.LoRA", json!({ "lora_A_init": "zero" }), "peft.lora_A_init", "xavier"),
            (
                "vlm.LoRA",
                json!({ "exclude_modules": ["linear_qkv"] }),
                "peft.exclude_modules",
                "target_modules=[]",
            ),
            (
                "vlm.LoRA",
                json!({ "target_modules": ["all-linear", "q_proj"] }),
                "peft.target_modules",
                "only one",
            ),
            (
                "vlm.LoRA",
                json!({ "modules_to_save": ["3"] }),
                "peft.modules_to_save[0]",
                "last component",
            ),
            (
                "llm.peft.CanonicalLoRA",
                json!({ "target_modules": ["*.linear_qkv"] }),
                "peft.target_modules",
                "linear_q, linear_k",
            ),
            (
                "llm.peft.DoRA",
                json!({ "dropout": 0.1, "dropout_position": "post" }),
                "peft.dropout_position",
                "pre",
            ),
            (
                "vlm.LoRA",
                json!({ "quantization": "nf4", "freeze_language_model": false }),
                "peft.quantization",
                "quantization=null",
            ),
            ("vlm.LoRA", json!({ "a2a_experimental": true }), "peft.a2a_experimental", "false"),
            ("vlm.LoRA", json!({ "network_alpha": 8 }), "peft.network_alpha", "null"),
        ] {
            let found = problems(json!({ scheme: settings }));
            assert!(
                found.len() == 1 && found[0].contains(path) && found[0].contains(fix),
                "{settings}: {found:?}"
            );
        }
    }
}
