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
