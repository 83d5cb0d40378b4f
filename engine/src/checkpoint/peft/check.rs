//! Checks that the settings of a run's adapters equal those of a folder of PEFT.

use super::super::placement::Names;
use super::advice::{set_targets, shares_an_a};
use super::{A, PeftFolder};
use crate::error::{EngineError, Result};
use neva_layout::{LinearAdapter, ModelTable, ParamSpec, Part, PeftConfig, lora_adapters};
use neva_schemas::Finetune;
use neva_schemas::{LoRA, Peft, Problem};
use serde_json::{Map, Value};

impl PeftFolder {
    /// Checks that the settings of the run's adapters equal those of the folder.
    pub(super) fn check_run(&self, table: &ModelTable, specs: &[ParamSpec], finetune: &Finetune, names: &Names) -> Result<()> {
        let (at, config) = (self.path.display(), &self.config);
        let set_targets = set_targets(specs, names);
        let Some(lora) = finetune.peft.as_ref().map(Peft::lora) else {
            let PeftConfig { dim, alpha, .. } = config;
            let more = [("use_rslora", config.use_rslora), ("use_dora", config.use_dora)];
            let more = more
                .iter()
                .filter(|(_, on)| *on)
                .map(|(name, _)| format!(" --set finetune.peft.{name}=true"));
            let more: String = more.collect();
            return Err(EngineError::Run(vec![
                Problem::error("finetune.peft", format!("the run has no adapters, but {at} holds some")).help(format!(
                    "--set peft_scheme=lora --set finetune.peft.dim={dim} --set finetune.peft.alpha={alpha}{more} {set_targets}"
                )),
            ]));
        };
        let mut problems = config.differences(lora, &self.path);
        problems.extend(self.other_patterns(table, specs, lora, names)?);
        if shares_an_a(specs, names) {
            let message = format!(
                "a fused module (`linear_qkv`, `linear_fc1`) has one A for all its linears, but the adapter in {at} has one for each"
            );
            problems.push(Problem::error("finetune.peft.target_modules", message).help(set_targets));
        }
        if !problems.is_empty() {
            return Err(EngineError::Run(problems));
        }
        for sentence in config.unapplied(lora) {
            tracing::warn!("{at}: {sentence}");
        }
        Ok(())
    }

    /// Compares rank and `alpha` of each linear, once the folder's defaults are those of the run.
    fn other_patterns(&self, table: &ModelTable, specs: &[ParamSpec], lora: &LoRA, names: &Names) -> Result<Vec<Problem>> {
        let plain: Vec<_> = specs.iter().filter(|spec| spec.part != Part::Adapter).cloned().collect();
        let same_defaults = LoRA {
            dim: self.config.dim as usize,
            alpha: self.config.alpha,
            use_rslora: self.config.use_rslora,
            ..lora.clone()
        };
        let adapters = lora_adapters(&plain, &same_defaults, "finetune.peft").map_err(EngineError::Run)?;
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        let mut differ = [false; 2];
        for linear in names.keys().filter_map(|name| name.strip_suffix(A)) {
            let spellings = [linear.to_owned(), table.hub_name(linear)];
            let of_linear = self.config.of_linear(&spellings);
            let (rank, alpha) = of_linear.map_err(|problems| EngineError::Content {
                path: self.path.join(super::CONFIG),
                reason: problems
                    .iter()
                    .map(|problem| problem.message.clone())
                    .collect::<Vec<_>>()
                    .join("; "),
            })?;
            if rank != self.config.dim {
                ranks.insert(linear.to_owned(), rank.into());
            }
            if alpha != self.config.alpha {
                alphas.insert(linear.to_owned(), alpha.into());
            }
            let Some(LinearAdapter { rank: own, scale, .. }) = adapters.linears.get(linear) else {
                continue;
            };
            differ[0] |= *own as u64 != rank;
            // The scale of another rank differs, too: its cause is named first.
            let expected = same_defaults.scale(alpha, *own);
            differ[1] |= (scale - expected).abs() > 1e-9 * expected;
        }
        let settings = [
            ("rank_pattern", "ranks", ranks, differ[0]),
            ("alpha_pattern", "`lora_alpha`s", alphas, differ[1]),
        ];
        let problems = settings.into_iter().filter(|(.., differ)| *differ).map(|(setting, what, map, _)| {
            let path = format!("finetune.peft.{setting}");
            let message = format!(
                "the adapter in {} has other {what} for some linears than the run",
                self.path.display()
            );
            Problem::error(&path, message).help(format!("--set '{path}={}'", Value::from(map)))
        });
        Ok(problems.collect())
    }
}
