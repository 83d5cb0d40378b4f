//! Enums: the variant is the `_target_` of a map, or a string alone.
//!
//! | variant | in text |
//! |---|---|
//! | `Unit` | `Unit`, or `{_target_: Unit}` |
//! | `Struct { a }`, `Newtype(struct or map)` | `{_target_: Struct, a: 1}`; without arguments also `Struct` |
//! | `Newtype(anything else)`, `Tuple(..)` | `{_target_: Tuple, _args_: [1, 2]}` |
//!
//! An enum may end in a newtype variant [`CUSTOM`]: it takes every `_target_` that is a path, as in
//! `my_crate::MyType`, with the whole map.

use serde::{
    Deserializer as _,
    de::{DeserializeSeed, EnumAccess, VariantAccess, Visitor, value::StrDeserializer},
};

use super::container::{Arguments, Items};
use crate::config::{
    error::{ConfigError, Problem, list},
    node::{ARGS, CUSTOM, Node, TARGET, Value},
    path::Segment,
};

/// Stands for the names of own types where names are listed.
const OWN: &str = "my_crate::MyType";

/// A node that names a variant.
pub(super) struct Tagged<'de> {
    /// The name as written: the node itself, or its `_target_`.
    tag: &'de Node,
    name: &'de str,
    body: &'de Node,
    custom: bool,
}

impl<'de> Tagged<'de> {
    pub(super) fn new(body: &'de Node, variants: &'static [&'static str]) -> Result<Self, ConfigError> {
        let tag = match &body.value {
            Value::Map(map) => match map.get(TARGET) {
                Some(entry) => &entry.node,
                None => return Err(body.error(Problem::MissingTarget { allowed: names(variants) })),
            },
            _ => body,
        };
        let mut tagged = Self {
            tag,
            name: "",
            body,
            custom: false,
        };
        let Some(name) = tag.as_text() else {
            let help = format!("the names here are {}", list(&names(variants)));
            return Err(tagged.at_tag(tag.wrong_type("the name of a type", Some(help))));
        };
        tagged.name = name;
        if variants.contains(&CUSTOM) {
            tagged.custom = name.contains("::");
            if !tagged.custom && (name == CUSTOM || !variants.contains(&name)) {
                let problem = Problem::UnknownVariant {
                    name: name.to_owned(),
                    allowed: names(variants),
                };
                return Err(tagged.at_tag(tag.error(problem)));
            }
        }
        Ok(tagged)
    }

    /// An error of the name.
    fn at_tag(&self, error: ConfigError) -> ConfigError {
        if std::ptr::eq(self.tag, self.body) {
            error.or_at(&self.tag.origin)
        } else {
            error.within(Segment::Key(TARGET.to_owned()), &self.tag.origin)
        }
    }
}

/// The names that a user may write for `variants`.
fn names(variants: &[&str]) -> Vec<String> {
    let names = variants.iter().map(|name| if *name == CUSTOM { OWN } else { name });
    names.map(str::to_owned).collect()
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = ConfigError;
    type Variant = Body<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Body<'de>), ConfigError> {
        let name = if self.custom { CUSTOM } else { self.name };
        let variant = seed
            .deserialize(StrDeserializer::new(name))
            .map_err(|error: ConfigError| self.at_tag(error))?;
        Ok((
            variant,
            Body {
                node: self.body,
                custom: self.custom,
            },
        ))
    }
}

/// What a variant holds.
pub(super) struct Body<'de> {
    node: &'de Node,
    custom: bool,
}

impl<'de> Body<'de> {
    fn arguments(&self) -> Arguments<'de> {
        match &self.node.value {
            Value::Map(map) => Arguments::new(map, &self.node.origin),
            _ => Arguments::none(&self.node.origin),
        }
    }

    /// The list under `_args_`, which must have `len` items.
    fn unnamed(&self, len: usize) -> Result<Option<&'de [Node]>, ConfigError> {
        let Some(args) = self.node.get(ARGS) else { return Ok(None) };
        let within = |error: ConfigError| error.within(Segment::Key(ARGS.to_owned()), &args.origin);
        // With `_args_` there are no named arguments.
        self.arguments().finish()?;
        let items = args.items().map_err(within)?;
        if items.len() != len {
            return Err(within(args.error(Problem::Length {
                expected: len,
                found: items.len(),
            })));
        }
        Ok(Some(items))
    }
}

impl<'de> VariantAccess<'de> for Body<'de> {
    type Error = ConfigError;

    fn unit_variant(self) -> Result<(), ConfigError> {
        self.unnamed(0)?;
        self.arguments().finish()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, ConfigError> {
        if self.custom {
            return match self.node.as_text() {
                Some(name) => Err(self.node.wrong_type("a map", Some(format!("write `{{{TARGET}: \"{name}\"}}`")))),
                None => seed.deserialize(self.node),
            };
        }
        match self.unnamed(1)? {
            Some([value]) => seed.deserialize(value).map_err(|error| {
                error
                    .within(Segment::Index(0), &value.origin)
                    .within(Segment::Key(ARGS.to_owned()), &value.origin)
            }),
            _ => seed.deserialize(self.arguments()),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, ConfigError> {
        match self.unnamed(len)? {
            Some(items) => visitor.visit_seq(Items::new(items)),
            None => Err(self.node.wrong_type(&format!("`{ARGS}:` with a list of {len}"), None)),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, ConfigError> {
        self.arguments().deserialize_struct("", fields, visitor)
    }
}
