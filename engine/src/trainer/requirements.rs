//! Checks what a run must do, after its first step.

use super::effect_report::EffectReport;
use neva_schemas::Requirement;

/// Returns what is missing for the requirements `require`, each with its name and what to type.
pub(super) fn unmet(report: &EffectReport, require: &[String]) -> Vec<String> {
    let missing = |text: &String| {
        let why = match Requirement::parse(text) {
            Ok(requirement) => reason(report, requirement)?,
            Err(help) => help,
        };
        Some(format!("`{text}`: {why}"))
    };
    require.iter().filter_map(missing).collect()
}

/// Returns why a requirement is not met.
fn reason(report: &EffectReport, requirement: Requirement) -> Option<String> {
    match requirement {
        Requirement::Fp8 { share } => {
            let met = share.map_or(report.fp8_share > 0.0, |share| report.fp8_share >= share);
            (!met).then(|| {
                format!(
                    "{:.1} % of the operations of the language model's linears were in FP8; try \
                     finetune.trainer.plugins=bf16_with_fp8_mixed",
                    100.0 * report.fp8_share
                )
            })
        }
        Requirement::Adapters => {
            let adapters = &report.adapters;
            if let Some(first) = adapters.missing.first().or(adapters.without_gradient.first()) {
                let missing = adapters.missing.len() + adapters.without_gradient.len();
                return Some(format!("{missing} of them are not attached or got no gradient, such as {first}"));
            }
            adapters
                .attached
                .is_empty()
                .then(|| "the run has none; set peft_scheme=lora, or finetune.peft".to_owned())
        }
        Requirement::Gradients => {
            let first = report.gradients.without.first()?;
            Some(format!(
                "{} trained parameters got no gradient, such as {first}; freeze them, or use data that reach them",
                report.gradients.without.len()
            ))
        }
        Requirement::Packing { fill } => {
            let packing = &report.packing;
            if packing.samples <= packing.rows {
                return Some(
                    "no two samples shared a row; set finetune.data.use_packed_sequence=true and a larger micro_batch_size, \
                     or packing_buffer_size"
                        .to_owned(),
                );
            }
            let least = fill.filter(|fill| packing.fill < *fill)?;
            Some(format!(
                "{:.1} % of the positions were filled, less than {:.1} %; raise finetune.data.micro_batch_size, or set packing_buffer_size",
                100.0 * packing.fill,
                100.0 * least
            ))
        }
        Requirement::Attention(backend) => {
            let others: Vec<_> = (report.attention.iter())
                .filter(|attention| attention.backend != backend.name())
                .map(|attention| attention.kernel)
                .collect();
            (!others.is_empty()).then(|| {
                format!(
                    "{} computed attention; try finetune.trainer.strategy.attention_backend={}",
                    others.join(" and "),
                    backend.name()
                )
            })
        }
    }
}
