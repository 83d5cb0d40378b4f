//! Registry of factories by type.

use std::{collections::BTreeMap, fmt, sync::Arc};

use neva_recipes::{llava15_7b, llava15_13b, neva_llama3_8b, neva_tiny, precision::PRECISIONS};
use neva_schemas::{AdamW, LlavaModel, LrScheduler, Model, Optim, Plugins};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::expand;
use crate::config::{
    de::from_node,
    error::{ConfigError, ProblemKind},
    node::Node,
    path::Path,
    problems::Problems,
    ser::to_node,
};

/// Function from a map of arguments, which may hold calls, to a value at the origin of the arguments.
type Factory = Arc<dyn Fn(Node, &Factories) -> Result<Node, ConfigError> + Send + Sync>;

/// Named functions for values of each type, by the type's name in Rust. See [`build`](super::build).
///
/// ```
/// use neva_run::config::Factories;
/// use neva_schemas::{LlavaModel, Model};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Sized {
///     hidden: usize,
/// }
///
/// let factories = Factories::builtin().with("Model", "sized", |args: Sized| {
///     let mut model = LlavaModel::default();
///     model.text_config.hidden_size = args.hidden;
///     Model::Llava(model)
/// });
/// assert!(factories.names("Model").any(|name| name == "sized"));
/// ```
#[derive(Clone, Default)]
pub struct Factories(BTreeMap<String, BTreeMap<String, Factory>>);

/// Arguments of a factory without arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

impl Factories {
    /// Returns the built-in factories: the recipes' models `llava15_7b`, `llava15_13b`, `neva_llama3_8b` and `neva_tiny`,
    /// with the arguments `freeze_language_model`, `freeze_vision_model` and `freeze_vision_projection`; and NeMo's
    /// `distributed_fused_adam_with_cosine_annealing` and precision recipes (`bf16_mixed`, `bf16_with_fp8_mixed` and so on).
    pub fn builtin() -> Self {
        Self::default()
            .with("Model", "llava15_7b", |frozen: Frozen| frozen.apply(llava15_7b::model()))
            .with("Model", "llava15_13b", |frozen: Frozen| frozen.apply(llava15_13b::model()))
            .with("Model", "neva_llama3_8b", |frozen: Frozen| frozen.apply(neva_llama3_8b::model()))
            .with("Model", "neva_tiny", |frozen: Frozen| frozen.apply(neva_tiny::model()))
            .with("Optim", "distributed_fused_adam_with_cosine_annealing", CosineAdam::optim)
            .with_precisions()
            .with_vision_classes()
            .with_language_classes()
    }

    /// Adds NeMo's precision recipes.
    fn with_precisions(self) -> Self {
        PRECISIONS.iter().fold(self, |factories, entry| {
            factories.with("Plugins", entry.name, |_: NoArguments| Plugins::MixedPrecision((entry.plugin)()))
        })
    }

    /// Adds the factory `name` for the Rust type `type_name`, without its path; it replaces an earlier one of that name.
    /// The arguments are read as an `A`; its fields with defaults are optional.
    pub fn with<A: DeserializeOwned, R: Serialize>(
        self,
        type_name: &str,
        name: &str,
        factory: impl Fn(A) -> R + Send + Sync + 'static,
    ) -> Self {
        self.try_with(type_name, name, move |arguments: A| Ok(factory(arguments)))
    }

    /// As [`with`](Self::with), for a factory that may reject its arguments, such as one that completes a
    /// [`Bound`](crate::config::Bound).
    pub fn try_with<A: DeserializeOwned, R: Serialize>(
        mut self,
        type_name: &str,
        name: &str,
        factory: impl Fn(A) -> Result<R, Problems> + Send + Sync + 'static,
    ) -> Self {
        let factory = move |mut arguments: Node, factories: &Self| {
            expand::<A>(&mut arguments, factories)?;
            let value = factory(from_node(&arguments)?).map_err(|problems| first(&problems, &arguments))?;
            to_node(&value, arguments.origin)
        };
        self.0
            .entry(type_name.to_owned())
            .or_default()
            .insert(name.to_owned(), Arc::new(factory));
        self
    }

    /// Adds a factory that turns nodes into nodes.
    pub(super) fn with_nodes(
        mut self,
        type_name: &str,
        name: &str,
        factory: impl Fn(Node, &Self) -> Result<Node, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        let factories = self.0.entry(type_name.to_owned()).or_default();
        factories.insert(name.to_owned(), Arc::new(factory));
        self
    }

    /// Returns the names of the type's factories, in alphabetical order.
    pub fn names(&self, type_name: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(type_name)
            .into_iter()
            .flat_map(|factories| factories.keys().map(String::as_str))
    }

    pub(super) fn find(&self, type_name: &str, name: &str) -> Option<&Factory> {
        self.0.get(type_name)?.get(name)
    }
}

/// Returns an error at the origin of `node`.
pub(super) fn error_at(node: &Node, message: &str, help: &str) -> ConfigError {
    let problem = ProblemKind::Invalid {
        message: message.to_owned(),
        help: Some(help.to_owned()),
    };
    ConfigError::new(Path::default(), Some(node.origin.clone()), problem)
}

/// Returns the first problem of a factory, at the origin of its arguments.
fn first(problems: &Problems, arguments: &Node) -> ConfigError {
    let [error, ..] = problems.errors() else {
        let message = "the factory rejects its arguments".to_owned();
        return ConfigError::new(
            Path::default(),
            Some(arguments.origin.clone()),
            ProblemKind::Invalid { message, help: None },
        );
    };
    ConfigError {
        origin: Some(arguments.origin.clone()),
        ..error.clone()
    }
}

impl fmt::Debug for Factories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .0
            .iter()
            .map(|(type_name, factories)| (type_name, factories.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

/// The arguments of NeMo's `distributed_fused_adam_with_cosine_annealing`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CosineAdam {
    warmup_steps: u64,
    constant_steps: u64,
    adam_beta1: f64,
    adam_beta2: f64,
    max_lr: f64,
    /// Default: a tenth of `max_lr`.
    min_lr: Option<f64>,
    clip_grad: f64,
}

impl Default for CosineAdam {
    fn default() -> Self {
        Self {
            warmup_steps: 2000,
            constant_steps: 0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            max_lr: 1e-4,
            min_lr: None,
            clip_grad: 1.0,
        }
    }
}

impl CosineAdam {
    fn optim(self) -> Optim {
        Optim::AdamW(AdamW {
            lr: self.max_lr,
            weight_decay: 0.1,
            betas: (self.adam_beta1, self.adam_beta2),
            eps: 1e-5,
            clip_grad: self.clip_grad,
            lr_scheduler: LrScheduler::CosineAnnealing {
                warmup_steps: self.warmup_steps,
                warmup_ratio: None,
                constant_steps: self.constant_steps,
                min_lr: self.min_lr.unwrap_or(0.1 * self.max_lr),
            },
            ..AdamW::default()
        })
    }
}

/// Overrides of the modules that a recipe's model freezes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frozen {
    freeze_language_model: Option<bool>,
    freeze_vision_model: Option<bool>,
    freeze_vision_projection: Option<bool>,
}

impl Frozen {
    fn apply(self, mut model: LlavaModel) -> Model {
        for (frozen, wanted) in [
            (&mut model.freeze_language_model, self.freeze_language_model),
            (&mut model.freeze_vision_model, self.freeze_vision_model),
            (&mut model.freeze_vision_projection, self.freeze_vision_projection),
        ] {
            *frozen = wanted.unwrap_or(*frozen);
        }
        Model::Llava(model)
    }
}
