//! Which functions stand for values of which type.

use std::{collections::BTreeMap, fmt, sync::Arc};

use neva_recipes::{llava15_7b, llava15_13b, neva_llama3_8b, neva_tiny};
use neva_schemas::{LlavaModel, Model};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::expand;
use crate::config::{de::from_node, error::ConfigError, node::Node, ser::to_node};

/// From the map of arguments, which may hold calls, to the value, at the place of the arguments.
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

/// The arguments of a factory that takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoArguments {}

impl Factories {
    /// The models of the recipes: `llava15_7b`, `llava15_13b`, `neva_llama3_8b` and `neva_tiny`. Each takes
    /// what stays frozen: `freeze_language_model`, `freeze_vision_model`, `freeze_vision_projection`.
    pub fn builtin() -> Self {
        Self::default()
            .with("Model", "llava15_7b", |frozen: Frozen| frozen.of(llava15_7b::model()))
            .with("Model", "llava15_13b", |frozen: Frozen| frozen.of(llava15_13b::model()))
            .with("Model", "neva_llama3_8b", |frozen: Frozen| frozen.of(neva_llama3_8b::model()))
            .with("Model", "neva_tiny", |frozen: Frozen| frozen.of(neva_tiny::model()))
    }

    /// Adds `name` for values of the type that Rust calls `type_name`, without its path; an earlier one of
    /// that name is replaced. The arguments are read as an `A`, which says by its defaults which of them may
    /// be left out.
    pub fn with<A: DeserializeOwned, R: Serialize>(
        mut self,
        type_name: &str,
        name: &str,
        factory: impl Fn(A) -> R + Send + Sync + 'static,
    ) -> Self {
        let factory = move |mut arguments: Node, factories: &Self| {
            expand::<A>(&mut arguments, factories)?;
            let value = factory(from_node(&arguments)?);
            to_node(&value, arguments.origin)
        };
        self.0
            .entry(type_name.to_owned())
            .or_default()
            .insert(name.to_owned(), Arc::new(factory));
        self
    }

    /// The names for values of the type, in alphabetical order.
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

impl fmt::Debug for Factories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .0
            .iter()
            .map(|(type_name, factories)| (type_name, factories.keys().collect::<Vec<_>>()));
        f.debug_map().entries(names).finish()
    }
}

/// What stays frozen of a model, where that is not what the recipe has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frozen {
    freeze_language_model: Option<bool>,
    freeze_vision_model: Option<bool>,
    freeze_vision_projection: Option<bool>,
}

impl Frozen {
    fn of(self, mut model: LlavaModel) -> Model {
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
