//! The types that a recipe may name: built-in ones, and those of a custom rank program.

use super::callback::{Callback, EarlyStopping};
use super::dataset::{DataModule, EncodedEnergon, RunData};
use crate::error::{EngineError, Result};
use crate::model::{BuildDecoder, BuildVision, Models};
use neva_data::TaskEncoder;
use neva_layout::families::{DecoderFamily, VisionFamily};
use neva_schemas::{CallbackConfig, Data, Finetune, Problem, TaskEncoder as TaskEncoderConfig, env};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Constructor of a value from its arguments. An error says what is wrong with them.
type Make<T> = Arc<dyn Fn(Value) -> Result<Box<T>, String> + Send + Sync>;

/// The types that a rank program registers by name: built-in and custom ones.
///
/// A custom rank program is a `main` that returns
/// `rank_main(Registry::builtin().data::<MyData>("my_crate::MyData"))`; `NEVA_RANK` names it to the launcher.
#[derive(Clone, Default)]
pub struct Registry {
    callbacks: BTreeMap<String, Make<dyn Callback>>,
    data: BTreeMap<String, Make<dyn DataModule>>,
    encoders: BTreeMap<String, Make<dyn TaskEncoder>>,
    models: Models,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.callbacks.keys())
            .entries(self.data.keys())
            .entries(self.encoders.keys())
            .finish()
    }
}

impl Registry {
    /// Returns the built-in types of `neva-rank`.
    pub fn builtin() -> Self {
        Self::default()
    }

    /// Adds a callback. A recipe names it by `_target_`; its fields are the arguments.
    #[must_use]
    pub fn callback<C: Callback + DeserializeOwned + 'static>(mut self, name: impl Into<String>) -> Self {
        let make = |arguments| parse::<C>(arguments).map(|callback| Box::new(callback) as Box<dyn Callback>);
        self.callbacks.insert(name.into(), Arc::new(make));
        self
    }

    /// Adds a data module. A recipe names it by `_target_`; its fields are the arguments, except those that every data module
    /// has ([`CustomData::FIELDS`](neva_schemas::CustomData::FIELDS)).
    #[must_use]
    pub fn data<D: DataModule + DeserializeOwned + 'static>(mut self, name: impl Into<String>) -> Self {
        let make = |arguments| parse::<D>(arguments).map(|module| Box::new(module) as Box<dyn DataModule>);
        self.data.insert(name.into(), Arc::new(make));
        self
    }

    /// Adds a task encoder of Energon datasets. A recipe names it by `_target_` in `finetune.data.task_encoder`; its other fields
    /// are the arguments.
    #[must_use]
    pub fn task_encoder<E: TaskEncoder + DeserializeOwned + 'static>(mut self, name: impl Into<String>) -> Self {
        let make = |arguments| parse::<E>(arguments).map(|encoder| Box::new(encoder) as Box<dyn TaskEncoder>);
        self.encoders.insert(name.into(), Arc::new(make));
        self
    }

    /// Adds a family of decoders. A recipe names it by `text_config.model_type`.
    #[must_use]
    pub fn decoder(mut self, name: &'static str, family: &'static dyn DecoderFamily, build: BuildDecoder) -> Self {
        self.models = self.models.decoder(name, family, build);
        self
    }

    /// Adds a family of vision towers. A recipe names it by `vision_config.model_type`.
    #[must_use]
    pub fn vision(mut self, name: &'static str, family: &'static dyn VisionFamily, build: BuildVision) -> Self {
        self.models = self.models.vision(name, family, build);
        self
    }

    /// Returns the model families.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Creates the callbacks of a run, in the recipe's order.
    ///
    /// # Errors
    /// A callback is not registered, or its arguments are invalid: all of these are listed.
    pub fn callbacks(&self, configs: &[CallbackConfig]) -> Result<Vec<Box<dyn Callback>>> {
        let mut problems = Vec::new();
        let mut callbacks = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            match config {
                CallbackConfig::EarlyStopping(config) => callbacks.push(Box::new(EarlyStopping::new(config)) as Box<dyn Callback>),
                CallbackConfig::Custom(custom) => {
                    let mut arguments = custom.0.clone();
                    arguments.shift_remove("_target_");
                    let path = format!("finetune.trainer.callbacks[{index}]");
                    match make(&self.callbacks, "callback", custom.target(), arguments, &path) {
                        Ok(callback) => callbacks.push(callback),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
        }
        if problems.is_empty() {
            Ok(callbacks)
        } else {
            Err(EngineError::Run(problems))
        }
    }

    /// Creates the data module of a run.
    ///
    /// # Errors
    /// It is not registered, or its arguments are invalid.
    pub fn data_module(&self, config: &Data) -> Result<Box<dyn DataModule>> {
        match config {
            Data::Mock(data) => Ok(Box::new(data.clone())),
            Data::Preloaded(data) => Ok(Box::new(data.clone())),
            Data::Energon(data) => match &data.task_encoder {
                Some(TaskEncoderConfig::Custom(custom)) => {
                    let path = "finetune.data.task_encoder";
                    let encoder = make(&self.encoders, "task encoder", custom.target(), custom.arguments(), path);
                    Ok(Box::new(EncodedEnergon {
                        data: data.clone(),
                        encoder: encoder.map_err(|problem| EngineError::Run(vec![problem]))?.into(),
                    }))
                }
                _ => Ok(Box::new(data.clone())),
            },
            Data::Custom(custom) => make(&self.data, "data module", custom.target(), custom.arguments(), "finetune.data")
                .map_err(|problem| EngineError::Run(vec![problem])),
        }
    }
}

/// Opens the data of a run with a built-in data module.
///
/// # Errors
/// As [`DataModule::open`].
pub fn run_data(finetune: &Finetune, base: Option<&Path>) -> Result<RunData> {
    Registry::builtin().data_module(&finetune.data)?.open(finetune, base)
}

fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|error| error.to_string())
}

/// Creates the `kind` that is registered as `target`.
fn make<T: ?Sized>(
    known: &BTreeMap<String, Make<T>>,
    kind: &str,
    target: &str,
    arguments: Map<String, Value>,
    path: &str,
) -> Result<Box<T>, Problem> {
    let Some(make) = known.get(target) else {
        let problem = Problem::error(format!("{path}._target_"), format!("this rank program has no {kind} `{target}`"));
        let names = known.keys().cloned().collect::<Vec<_>>().join(", ");
        let elsewhere = format!("{} names the program that has it", env::NEVA_RANK);
        return Err(problem.help(if names.is_empty() {
            elsewhere
        } else {
            format!("it has {names}; {elsewhere}")
        }));
    };
    make(Value::Object(arguments)).map_err(|reason| Problem::error(path, format!("{target}: {reason}")))
}
