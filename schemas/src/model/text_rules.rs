//! Rules of a language model's config: sizes, and the fields that a family reads.

use super::divides;
use super::text::{TextConfig, TextModelType};
use crate::validate::{Problem, Validate, nonzero};

impl Validate for TextConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        if let TextModelType::Custom(family) = self.family() {
            let builtin = TextModelType::BUILTIN.iter().map(TextModelType::name).collect::<Vec<_>>();
            family.validate(&format!("{path}.model_type"), &builtin.join(", "), problems);
        }
        let sizes = [
            ("vocab_size", self.vocab_size as u64),
            ("hidden_size", self.hidden_size as u64),
            ("intermediate_size", self.intermediate_size as u64),
            ("num_hidden_layers", self.num_hidden_layers as u64),
            ("num_attention_heads", self.num_attention_heads as u64),
            ("num_key_value_heads", self.num_key_value_heads as u64),
        ];
        nonzero(path, problems, &sizes);
        let heads = ("num_attention_heads", self.num_attention_heads);
        if self.head_dim.is_none() {
            divides(path, ("hidden_size", self.hidden_size), heads, problems);
        }
        divides(path, heads, ("num_key_value_heads", self.num_key_value_heads), problems);
        self.validate_rope(path, problems);
        self.validate_window(path, problems);
        self.validate_fields(path, problems);
    }
}

impl TextConfig {
    fn validate_rope(&self, path: &str, problems: &mut Vec<Problem>) {
        if let Some(scaling) = &self.rope_scaling {
            scaling.validate(&format!("{path}.rope_scaling"), problems);
        }
        let factor = self.rotary_factor();
        if !(factor > 0.0 && factor <= 1.0) {
            problems.push(Problem::error(
                format!("{path}.partial_rotary_factor"),
                format!("`partial_rotary_factor` {factor:?} is not greater than 0 and at most 1"),
            ));
        } else if !self.rotary_dim().is_multiple_of(2) {
            let (field, what) = match self.partial_rotary_factor {
                Some(_) => (
                    "partial_rotary_factor",
                    format!("`partial_rotary_factor` {factor:?} rotates {} dims", self.rotary_dim()),
                ),
                None => ("head_dim", format!("`head_dim` {} is odd", self.rotary_dim())),
            };
            let problem = format!("{what}; rotary position embedding needs pairs");
            problems.push(Problem::error(format!("{path}.{field}"), problem));
        }
    }

    fn validate_window(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.sliding_window == Some(0) {
            let problem = Problem::error(
                format!("{path}.sliding_window"),
                "`sliding_window` is 0: no query would attend to a key",
            );
            problems.push(problem.help("set it to null for attention without a window"));
        }
        let Some(types) = &self.layer_types else { return };
        if types.len() != self.num_hidden_layers {
            let problem = format!(
                "`layer_types` names {} layers, the model has {}",
                types.len(),
                self.num_hidden_layers
            );
            problems.push(Problem::error(format!("{path}.layer_types"), problem));
        }
    }

    /// Reports the fields that the family does not have: they would have no effect.
    fn validate_fields(&self, path: &str, problems: &mut Vec<Problem>) {
        use TextModelType::{Custom, Llama, Mistral, Nemotron, Qwen2};
        let family = self.family();
        let (nemotron, biased) = (matches!(family, Nemotron), matches!(family, Llama | Nemotron));
        let (windowed, qwen2) = (matches!(family, Mistral | Qwen2), matches!(family, Qwen2));
        if matches!(family, Custom(_)) {
            return;
        }
        let rms = Self::default().rms_norm_eps;
        let fields = [
            ("attention_bias", self.attention_bias, biased),
            ("mlp_bias", self.mlp_bias, biased),
            ("norm_eps", self.norm_eps.is_some(), nemotron),
            ("rms_norm_eps", self.rms_norm_eps != rms, !nemotron),
            ("partial_rotary_factor", self.rotary_factor() != 1.0, nemotron),
            ("sliding_window", self.sliding_window.is_some(), windowed),
            ("use_sliding_window", self.use_sliding_window.is_some(), qwen2),
            ("max_window_layers", self.max_window_layers.is_some(), qwen2),
            ("layer_types", self.layer_types.is_some(), qwen2),
        ];
        for (field, _, _) in fields.into_iter().filter(|(_, written, read)| *written && !*read) {
            let problem = format!("`{field}` has no effect in the model family {}", family.name());
            problems.push(Problem::error(format!("{path}.{field}"), problem).help("remove it"));
        }
    }
}
