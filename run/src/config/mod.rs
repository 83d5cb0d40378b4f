//! The configuration tree: text in, typed values out, and back to text.
//!
//! ```text
//! text --yaml, json, toml--> Node --include, merge, set, interpolate--> Node --build--> T
//!      T --ser--> Node --yaml, json, toml--> text
//! ```
//!
//! Every change of a configuration works on [`Node`]s, which know the origin of each value; types are applied once, at
//! the end. So every error underlines the characters that caused it, in the file or in the `--set` text, and states
//! what to write instead.
//!
//! A polymorphic field is an externally tagged serde enum; in text its variant is the `_target_` of a map. Do not use
//! untagged, internally tagged or flattened types in configuration types: serde buffers those, and the positions are
//! lost.

mod bound;
mod bound_items;
mod call;
mod de;
mod diag;
mod diff;
mod emit;
mod empty_section;
mod error;
mod excerpt;
mod factory;
mod file;
mod file_reference;
mod history;
mod include;
mod interpolate;
mod json;
mod merge;
mod names;
mod node;
mod origin;
mod path;
mod problems;
mod recorded;
mod revision;
mod scalar;
mod ser;
mod set;
mod size;
mod toml;
mod typed;
mod visible;
mod walk;
mod yaml;

pub use bound::Bound;
pub use de::from_node;
pub use diag::{render, wants_colour};
pub use diff::{Difference, Side, diff};
pub use emit::{to_json, to_yaml_string};
pub(crate) use empty_section::drop_empty_sections;
pub use error::{ConfigError, ProblemKind};
pub use factory::{Factories, NoArguments, build, expand};
pub use file::{parse, read};
pub use history::{history, trace};
pub use include::{INCLUDE, include, load};
pub use interpolate::{ENV, Environment, escape, has_references, interpolate};
pub use json::to_json_string;
pub use merge::{leftover_deletions, merge};
pub(crate) use names::recipe as python_recipe;
pub use node::{ARGS, Entry, FACTORY, Map, Node, PARTIAL, RESERVED, TARGET, Value, locate};
pub use origin::{Origin, Source, Span};
pub use path::{Path, PathError, Segment};
pub use problems::Problems;
pub(crate) use recorded::{FORWARDED_ARGUMENTS, file_in};
pub use revision::Revision;
pub use ser::to_node;
pub use set::{Override, apply_overrides};
pub use toml::to_toml_string;
pub use typed::{Call, Config, Partial};
pub use visible::visible;
pub use walk::{broadcast, walk};
