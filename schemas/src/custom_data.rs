//! A data module of the rank program's own.

use crate::data::NevaPreloadedDataModule;
use crate::validate::{Problem, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An own data module as it is written: its `_target_`, the fields that every data module has
/// ([`Self::FIELDS`]), and whatever arguments it takes itself.
///
/// What the arguments mean, only the rank program knows: a relative path among them stays as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CustomData(#[schemars(with = "Batching")] pub Map<String, Value>);

/// The fields that every data module has, with the defaults of [`NevaPreloadedDataModule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub(crate) struct Batching {
    /// Longest combined sequence; longer samples are cut at the right.
    pub(crate) seq_length: usize,
    /// Samples in one optimizer step, over all ranks.
    pub(crate) global_batch_size: u64,
    /// Samples in one forward pass of one rank.
    pub(crate) micro_batch_size: u64,
    /// Samples of a forward pass share rows of up to `seq_length` positions, each seeing itself alone.
    pub(crate) use_packed_sequence: bool,
    /// Threads that prepare samples on each rank; 0 prepares them inline.
    pub(crate) num_workers: usize,
    /// Each epoch has an order of its own; `false` reads the data in its own order, epoch after epoch.
    pub(crate) shuffle: bool,
    /// Seed of the sample order.
    pub(crate) seed: u64,
}

impl CustomData {
    /// Names of the fields that every data module has, and that are not among the module's own arguments.
    pub const FIELDS: &[&str] = &[
        "seq_length",
        "global_batch_size",
        "micro_batch_size",
        "use_packed_sequence",
        "num_workers",
        "shuffle",
        "seed",
    ];

    /// The name that it is registered under.
    pub fn target(&self) -> &str {
        self.0.get("_target_").and_then(Value::as_str).unwrap_or_default()
    }

    /// The module's own arguments.
    pub fn arguments(&self) -> Map<String, Value> {
        let own = |name: &str| name != "_target_" && !Self::FIELDS.contains(&name);
        let arguments = self.0.iter().filter(|(name, _)| own(name));
        arguments.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The fields that every data module has; one that is wrong has its default here, and [`Validate`] names it.
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
            num_workers: reader.whole("num_workers", default.num_workers),
            shuffle: reader.flag("shuffle", default.shuffle),
            seed: reader.whole("seed", default.seed),
        }
    }
}

/// Reads single fields out of a map, and gathers what is wrong with them.
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
        self.read(path, problems);
        // Whether it is registered, only the rank program knows. A misspelt built-in one is told from an own type
        // by the `::` of the latter's path.
        if !self.target().contains("::") {
            problems.push(
                Problem::error(format!("{path}._target_"), format!("there is no data module {:?}", self.target())).help(
                    "built in are vlm.MockDataModule and vlm.NevaPreloadedDataModule; an own type is named by its path, my_crate::MyData",
                ),
            );
        }
    }
}
