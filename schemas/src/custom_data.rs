//! Custom data modules of the rank program.

use crate::data_modules::NevaPreloadedDataModule;
use crate::packing::{PackingOversize, PackingSettings};
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A custom data module as written: its `_target_`, the fields that every data module has
/// ([`Self::FIELDS`]), and its own arguments.
///
/// Only the rank program knows the meaning of the arguments, so a relative path among them is not changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomData(#[schemars(with = "Batching")] pub Map<String, Value>);

/// The fields that every data module has, with the defaults of [`NevaPreloadedDataModule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub(crate) struct Batching {
    /// Maximum length of the combined text and image sequence; longer samples are truncated on the right.
    pub(crate) seq_length: usize,
    /// Number of samples per optimizer step, over all ranks.
    pub(crate) global_batch_size: u64,
    /// Number of samples per forward pass of one rank.
    pub(crate) micro_batch_size: u64,
    /// Packs the samples of a forward pass into rows of up to `seq_length` positions; each attends to itself only.
    pub(crate) use_packed_sequence: bool,
    /// Maximum length of a row of packed samples; `null`: `seq_length`. Each sample has at most `seq_length` positions.
    pub(crate) packed_sequence_size: Option<usize>,
    /// Number of samples that are packed together into rows, which then count in `micro_batch_size` and `global_batch_size` in
    /// place of samples; `null` packs no more than the samples of a forward pass.
    pub(crate) packing_buffer_size: Option<usize>,
    /// Policy for samples that are longer than `seq_length` or `packed_sequence_size`.
    pub(crate) packing_oversize: PackingOversize,
    /// Puts samples with and without an image into batches of their own, sorted by length: LLaVA's
    /// `group_by_modality_length`.
    pub(crate) group_by_modality_length: bool,
    /// Number of microbatches that each worker prepares ahead, and works on one more.
    pub(crate) prefetch_factor: usize,
    /// Number of threads that prepare samples on each rank; 0 prepares them inline.
    pub(crate) num_workers: usize,
    /// Shuffles the samples in each epoch; `false` reads them in order.
    pub(crate) shuffle: bool,
    /// Seed of the sample order.
    pub(crate) seed: u64,
}

impl CustomData {
    /// Names of the fields that every data module has, as opposed to the module's own arguments.
    pub const FIELDS: &[&str] = &[
        "seq_length",
        "global_batch_size",
        "micro_batch_size",
        "use_packed_sequence",
        "packed_sequence_size",
        "packing_buffer_size",
        "packing_oversize",
        "group_by_modality_length",
        "prefetch_factor",
        "num_workers",
        "shuffle",
        "seed",
    ];

    /// Returns the name under which it is registered.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the module's own arguments.
    pub fn arguments(&self) -> Map<String, Value> {
        let own = |name: &str| name != "_target_" && !Self::FIELDS.contains(&name);
        let arguments = self.0.iter().filter(|(name, _)| own(name));
        arguments.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Returns the fields that every data module has. Invalid ones have their default; [`Validate`] reports them.
    pub(crate) fn batching(&self) -> Batching {
        self.read("", &mut Vec::new())
    }

    fn read(&self, path: &str, problems: &mut Vec<Problem>) -> Batching {
        let default = NevaPreloadedDataModule::default();
        let mut reader = Reader {
            map: &self.0,
            path,
            problems,
        };
        Batching {
            seq_length: reader.whole("seq_length", default.seq_length),
            global_batch_size: reader.whole("global_batch_size", default.global_batch_size),
            micro_batch_size: reader.whole("micro_batch_size", default.micro_batch_size),
            use_packed_sequence: reader.flag("use_packed_sequence", default.use_packed_sequence),
            packed_sequence_size: reader.optional("packed_sequence_size"),
            packing_buffer_size: reader.optional("packing_buffer_size"),
            packing_oversize: reader.field("packing_oversize", "truncate or skip", default.packing_oversize, |value| {
                PackingOversize::deserialize(value).ok()
            }),
            group_by_modality_length: reader.flag("group_by_modality_length", default.group_by_modality_length),
            prefetch_factor: reader.whole("prefetch_factor", default.prefetch_factor),
            num_workers: reader.whole("num_workers", default.num_workers),
            shuffle: reader.flag("shuffle", default.shuffle),
            seed: reader.whole("seed", default.seed),
        }
    }
}

impl Batching {
    /// Returns the settings of packing.
    pub(crate) fn packing_settings(&self) -> PackingSettings<'static> {
        PackingSettings {
            seq_length: self.seq_length,
            packed_sequence_size: self.packed_sequence_size,
            packing_buffer_size: self.packing_buffer_size,
            packing_oversize: self.packing_oversize,
            packed_set: None,
            use_packed_sequence: self.use_packed_sequence,
            group_by_modality_length: self.group_by_modality_length,
        }
    }
}

/// Reads single fields from a map and collects their problems.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn whole<T: TryFrom<u64>>(&mut self, name: &str, default: T) -> T {
        let read = |value: &Value| value.as_u64().and_then(|number| T::try_from(number).ok());
        self.field(name, "a whole number of at least 0", default, read)
    }

    fn optional(&mut self, name: &str) -> Option<usize> {
        let read = |value: &Value| match value {
            Value::Null => Some(None),
            value => Some(Some(usize::try_from(value.as_u64()?).ok()?)),
        };
        self.field(name, "null or a whole number of at least 0", None, read)
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        self.field(name, "true or false", default, Value::as_bool)
    }

    fn field<T>(&mut self, name: &str, expected: &str, default: T, read: impl Fn(&Value) -> Option<T>) -> T {
        let Some(value) = self.map.get(name) else { return default };
        read(value).unwrap_or_else(|| {
            let message = format!("`{name}` is {value}, it must be {expected}");
            self.problems.push(Problem::error(format!("{}.{name}", self.path), message));
            default
        })
    }
}

impl Validate for CustomData {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        self.read(path, problems).packing_settings().validate(path, problems);
        if self.0.contains_key("packed_set") {
            let message = "`neva-run data pack` cannot read the samples of a data module of your own";
            let help = "set packing_buffer_size, which packs samples as they are read";
            problems.push(Problem::error(format!("{path}.packed_set"), message).help(help));
        }
        // Only the rank program knows whether it is registered. The `::` of its path tells a custom type from a
        // misspelt built-in one.
        if !self.target().contains("::") {
            problems.push(
                Problem::error(format!("{path}._target_"), format!("there is no data module {:?}", self.target())).help(
                    "built in are vlm.MockDataModule, vlm.NevaPreloadedDataModule and EnergonMultiModalDataModule; an own type is \
                     named by its path, my_crate::MyData",
                ),
            );
        }
    }
}
