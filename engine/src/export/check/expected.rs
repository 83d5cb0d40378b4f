//! What an export must hold: by the table of its model, and by the tensors in the checkpoint of its run.

use super::Subject;
use crate::checkpoint::{Extent, ModelCache, Placement, Sources, load_parameters};
use crate::error::{EngineError, Result};
use crate::parameters::Parameters;
use neva_layout::{Adapters, LinearAdapter, ModelTable, ParamSpec, Part, ReaderSlot, is_quantized, lora_adapters};
use neva_schemas::{ExportFormat, Finetune, Peft, Reader};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind};

/// What an export must hold.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    subject: &'a Subject<'a>,
    table: &'a ModelTable,
    cache: &'a ModelCache,
    /// Settings of the run, on one rank.
    pub(super) finetune: Finetune,
    /// Parameters of the model, without adapters.
    pub(super) rows: Vec<ParamSpec>,
    /// Adapters of the run.
    pub(super) adapters: Adapters,
    /// Parameters of the model and its adapters.
    pub(super) specs: Vec<ParamSpec>,
    trained: BTreeSet<String>,
}

impl<'a> Expected<'a> {
    pub(super) fn open(subject: &'a Subject<'a>, table: &'a ModelTable, cache: &'a ModelCache) -> Result<Self> {
        let mut finetune = subject.finetune.clone();
        finetune.trainer.strategy.set_one_rank();
        let rows = table.parameters(finetune.trainer.strategy.vision_placement);
        let trained: BTreeSet<_> = match subject.checkpoint {
            Some(checkpoint) => checkpoint.model()?.shapes().map(|(name, _)| name.to_owned()).collect(),
            None => BTreeSet::new(),
        };
        // An exported checkpoint has its adapters merged.
        let lora = finetune.peft.as_ref().map(Peft::lora);
        let adapters = match lora.filter(|_| trained.iter().any(|name| !rows.iter().any(|row| row.name == *name))) {
            Some(lora) => lora_adapters(&rows, lora, "finetune.peft").map_err(EngineError::Run)?,
            None => Adapters::default(),
        };
        if adapters.linears.is_empty() {
            finetune.peft = None;
        }
        let specs: Vec<_> = rows.iter().chain(&adapters.parameters).cloned().collect();
        if let Some(name) = trained.iter().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
            return Err(EngineError::Bug(format!(
                "the checkpoint holds `{name}`, which is no parameter of its run"
            )));
        }
        Ok(Self {
            subject,
            table,
            cache,
            finetune,
            rows,
            adapters,
            specs,
            trained,
        })
    }

    /// Returns whether the export has only some tensors of the model.
    pub(super) fn is_partial(&self) -> bool {
        self.subject.model.is_none() || self.subject.form.0 == ExportFormat::Llava
    }

    /// Returns whether the reader has one rank and one scale for all adapters.
    pub(super) fn has_common_rank(&self) -> bool {
        self.subject.form.2 == Reader::Vllm
    }

    /// Returns the names of the tensors that the run trained.
    pub(super) fn trained(&self) -> &BTreeSet<String> {
        &self.trained
    }

    /// Returns whether the adapter of a linear is merged into its weight: in a whole model; and with PEFT in a module that was
    /// trained itself, since `modules_to_save` replaces it. Vision encoder and projector are saved as a whole.
    pub(super) fn merges(&self, linear: &str) -> bool {
        if self.subject.form.0 != ExportFormat::HfPeft {
            return true;
        }
        let weight = format!("{linear}.weight");
        let part = self.rows.iter().find(|row| row.name == weight).map(|row| row.part);
        let is_saved = |row: &ParamSpec| match part {
            Some(part @ (Part::Vision | Part::Projection)) => row.part == part,
            _ => row.name == weight,
        };
        self.rows.iter().any(|row| is_saved(row) && self.trained.contains(&row.name))
    }

    /// Returns every place that must have a tensor, and whether its tensor was trained.
    pub(super) fn due(&self) -> BTreeMap<ReaderSlot, bool> {
        let mut due = BTreeMap::new();
        if self.subject.model.is_some() {
            let rows = self.rows.iter().filter(|row| !self.may_be_absent(row));
            due.extend(rows.map(|row| (ReaderSlot::Parameter(row.name.clone()), false)));
        }
        for name in &self.trained {
            due.extend(self.slots(name).into_iter().map(|slot| (slot, true)));
        }
        due
    }

    /// LLaVA's own code takes a vision encoder that was not trained from the encoder's own folder.
    fn may_be_absent(&self, row: &ParamSpec) -> bool {
        self.subject.form.0 == ExportFormat::Llava && row.part == Part::Vision && !self.trained.contains(&row.name)
    }

    /// Returns whether a place may have a tensor that is not due: a copy of one that is, or an untrained vision encoder.
    pub(super) fn is_allowed(&self, slot: &ReaderSlot) -> bool {
        match slot {
            ReaderSlot::Parameter(name) => self.table.is_tied_head(name) || self.rows.iter().any(|row| row.name == *name),
            ReaderSlot::A(_) | ReaderSlot::B(_) | ReaderSlot::Magnitude(_) => false,
        }
    }

    /// Returns the places where a trained tensor takes effect.
    fn slots(&self, name: &str) -> Vec<ReaderSlot> {
        if self.rows.iter().any(|row| row.name == name) {
            return vec![ReaderSlot::Parameter(name.to_owned())];
        }
        let mut slots = Vec::new();
        for (linear, LinearAdapter { a, b, magnitude, .. }) in &self.adapters.linears {
            let own = [
                (Some(a), ReaderSlot::A as fn(String) -> ReaderSlot),
                (Some(b), ReaderSlot::B),
                (magnitude.as_ref(), ReaderSlot::Magnitude),
            ];
            for (_, slot) in own.into_iter().filter(|(own, _)| own.is_some_and(|own| own == name)) {
                slots.push(if self.merges(linear) {
                    ReaderSlot::Parameter(format!("{linear}.weight"))
                } else {
                    slot(linear.clone())
                });
            }
        }
        slots
    }

    /// Returns the places whose tensors are the parameter itself: several for an A that several linears share.
    pub(super) fn slots_of(&self, name: &str) -> Vec<ReaderSlot> {
        if self.rows.iter().any(|row| row.name == name) {
            return vec![ReaderSlot::Parameter(name.to_owned())];
        }
        let linears = self.adapters.linears.iter().filter(|(linear, _)| !self.merges(linear));
        let slots = linears.filter_map(|(linear, LinearAdapter { a, b, magnitude, .. })| match () {
            () if a == name => Some(ReaderSlot::A(linear.clone())),
            () if b == name => Some(ReaderSlot::B(linear.clone())),
            () if magnitude.as_deref() == Some(name) => Some(ReaderSlot::Magnitude(linear.clone())),
            () => None,
        });
        slots.collect()
    }

    /// Returns where a parameter of the run lies, unless an adapter is merged into it.
    pub(super) fn extent(&self, spec: &ParamSpec) -> Option<Extent> {
        let module = spec
            .lora
            .as_ref()
            .filter(|module| self.adapters.linears.contains_key(&module.linear));
        match module.is_some_and(|module| self.merges(&module.linear)) {
            true => None,
            false => self.subject.source.plain_extent(spec),
        }
    }

    /// Returns whether a place of the export was found equal while it was written.
    pub(super) fn is_known_equal(&self, own: &Extent, written: &Extent) -> bool {
        self.subject.source.equal.has(own, written)
    }

    /// Returns whether the run computed with weights in 4 bits.
    pub(super) fn is_in_four_bits(&self) -> bool {
        self.rows.iter().any(|row| is_quantized(row, &self.finetune))
    }

    /// Returns whether there is a base to compare with: an exported checkpoint has none.
    pub(super) fn has_base(&self) -> bool {
        !self.trained.is_empty() && self.subject.checkpoint.is_some_and(|checkpoint| !checkpoint.state.whole)
    }

    /// Returns the name of a linear in the memory of the reader.
    pub(super) fn module(&self, linear: &str) -> String {
        self.table.module_in_transformers(self.subject.form.1, linear)
    }

    /// Loads those parameters of the run that are `wanted`, in fp32.
    pub(super) fn of_run(&self, wanted: &dyn Fn(&ParamSpec) -> bool) -> Result<Parameters> {
        let sources = Sources {
            checkpoint: self.subject.checkpoint,
            adapter: None,
            base: self.subject.base,
            cache: self.cache,
        };
        load_parameters(self.table, &self.specs, wanted, &self.finetune, sources, WHOLE)
    }

    /// Loads those parameters of the base that are `wanted`, in fp32.
    pub(super) fn of_base(&self, wanted: &dyn Fn(&ParamSpec) -> bool) -> Result<Parameters> {
        let finetune = Finetune {
            peft: None,
            ..self.finetune.clone()
        };
        let sources = Sources {
            checkpoint: None,
            adapter: None,
            base: self.subject.base,
            cache: self.cache,
        };
        load_parameters(self.table, &self.rows, wanted, &finetune, sources, WHOLE)
    }
}

/// Whole tensors in fp32.
const WHOLE: Placement = Placement {
    tp_rank: 0,
    tp: 1,
    kind: Kind::Float,
    device: Device::Cpu,
};
