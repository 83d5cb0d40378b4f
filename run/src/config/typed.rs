//! Configuration built in Rust: typed values with the operations of a tree.
//!
//! ```
//! use neva_run::config::Config;
//! use neva_recipes::llava15_7b;
//!
//! let recipe = Config::new(llava15_7b::finetune_recipe(llava15_7b::default_args()));
//! let mut mine = recipe.clone();
//! mine.trainer.max_steps = Some(100);
//! mine.broadcast("initializer_range", &0.01)?;
//! for difference in recipe.diff(&mine)? {
//!     println!("{difference}");
//! }
//! # Ok::<(), neva_run::config::ConfigError>(())
//! ```

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    de::from_node,
    diff::{Difference, diff},
    emit::to_yaml_string,
    error::ConfigError,
    factory::{Factories, build},
    json::to_json_string,
    node::Node,
    origin::Origin,
    path::Path,
    problems::Problems,
    ser::to_node,
    toml::to_toml_string,
    walk,
};

/// The description of an object to build. It dereferences to `T`, so its fields can be assigned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config<T>(T);

/// The description of a call that still needs arguments which only the rank knows, such as its mesh and device. In
/// text it is an `F` with `_partial_: true`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename = "_partial_")]
pub struct Partial<F>(F);

/// A description that can be called once its last arguments are known.
pub trait Call {
    /// Late arguments; `()` if all are known.
    type Late;
    /// The return type.
    type Output;

    /// Makes the call.
    fn call(&self, late: Self::Late) -> Self::Output;
}

impl<T: Call<Late = ()>> Config<T> {
    /// Builds the object.
    pub fn build(&self) -> T::Output {
        self.0.call(())
    }
}

impl<F: Call> Partial<F> {
    /// Makes the call with the late arguments.
    pub fn call(&self, late: F::Late) -> F::Output {
        self.0.call(late)
    }
}

macro_rules! descriptions {
    ($($name:ident)*) => {
        $(
            impl<T> $name<T> {
                /// Wraps `value`.
                pub fn new(value: T) -> Self {
                    Self(value)
                }

                /// Returns the wrapped value.
                pub fn into_inner(self) -> T {
                    self.0
                }
            }

            impl<T> Deref for $name<T> {
                type Target = T;

                fn deref(&self) -> &T {
                    &self.0
                }
            }

            impl<T> DerefMut for $name<T> {
                fn deref_mut(&mut self) -> &mut T {
                    &mut self.0
                }
            }

            impl<T> From<T> for $name<T> {
                fn from(value: T) -> Self {
                    Self(value)
                }
            }

            impl<T: Serialize + DeserializeOwned> $name<T> {
                /// Reads the description from `node`, and makes its calls.
                ///
                /// # Errors
                /// As [`build`](super::build()).
                pub fn read(mut node: Node, factories: &Factories) -> Result<Self, Problems> {
                    build(&mut node, factories)
                }

                /// Returns the description as a tree.
                ///
                /// # Errors
                /// As [`to_node`].
                pub fn node(&self) -> Result<Node, ConfigError> {
                    to_node(self, Origin::Default)
                }

                /// Sets every field called `name` to `value`, at any depth, in lists and maps too. Returns the number
                /// of fields. On an error nothing is changed.
                ///
                /// # Errors
                /// The first field that does not accept the value.
                pub fn broadcast(&mut self, name: &str, value: &impl Serialize) -> Result<usize, ConfigError> {
                    let mut node = self.node()?;
                    let count = walk::broadcast(&mut node, name, &to_node(value, Origin::Default)?);
                    *self = from_node(&node)?;
                    Ok(count)
                }

                /// Calls `visit` with every value and its path.
                ///
                /// # Errors
                /// As [`Self::node`].
                pub fn walk(&self, mut visit: impl FnMut(&Path, &Node)) -> Result<(), ConfigError> {
                    walk::walk(&self.node()?, |path, node| visit(path, node));
                    Ok(())
                }

                /// Returns the differences to `other`.
                ///
                /// # Errors
                /// As [`Self::node`].
                pub fn diff(&self, other: &Self) -> Result<Vec<Difference>, ConfigError> {
                    Ok(diff(&self.node()?, &other.node()?))
                }

                /// Returns the description as YAML.
                ///
                /// # Errors
                /// As [`Self::node`].
                pub fn to_yaml(&self) -> Result<String, ConfigError> {
                    Ok(to_yaml_string(&self.node()?))
                }

                /// Returns the description as JSON.
                ///
                /// # Errors
                /// As [`Self::node`].
                pub fn to_json(&self) -> Result<String, ConfigError> {
                    Ok(to_json_string(&self.node()?))
                }

                /// Returns the description as TOML.
                ///
                /// # Errors
                /// As [`Self::node`], and one that is not a map.
                pub fn to_toml(&self) -> Result<String, ConfigError> {
                    to_toml_string(&self.node()?)
                }
            }
        )*
    };
}
descriptions! { Config Partial }
