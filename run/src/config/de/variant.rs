//! Deserializes enums: the variant is the `_target_` of a map, or a bare string.
//!
//! | variant | in text |
//! |---|---|
//! | `Unit` | `Unit`, or `{_target_: Unit}` |
//! | `Struct { a }`, `Newtype(struct or map)` | `{_target_: Struct, a: 1}`; without arguments also `Struct` |
//! | `Newtype(anything else)`, `Tuple(..)` | `{_target_: Tuple, _args_: [1, 2]}` |
//!
//! A text that names no variant may be a call or name a factory: the error is [`ProblemKind::UnresolvedName`], and
//! [`build`](crate::config::build) replaces the text by the result.
//!
//! An enum may end in a newtype variant [`CUSTOM`]: it accepts every `_target_` that is a path, as in
//! `my_crate::MyType`, with the whole map.

use serde::{
    Deserializer as _,
    de::{DeserializeSeed, EnumAccess, VariantAccess, Visitor, value::StrDeserializer},
};

use super::{
    container::{Arguments, Items},
    owned,
};
use crate::config::{
    call::is_call,
    error::{ConfigError, ProblemKind, list},
    names,
    node::{ARGS, CONFIG, CUSTOM, FACTORY, Node, TARGET, Value},
    path::Segment,
};

/// Example of a custom type's name, for lists of names.
const CUSTOM_EXAMPLE: &str = "my_crate::MyType";

/// A node that names a variant.
pub(super) struct Tagged<'de> {
    /// The name as written: the node itself, or its `_target_`.
    tag: &'de Node,
    name: &'de str,
    body: &'de Node,
    custom: bool,
}

impl<'de> Tagged<'de> {
    pub(super) fn new(body: &'de Node, type_name: &str, variants: &'static [&'static str]) -> Result<Self, ConfigError> {
        let tag = match &body.value {
            Value::Map(map) => match (map.get(TARGET), map.get(FACTORY)) {
                (Some(_), Some(factory)) => return Err(target_and_factory(&factory.node)),
                (Some(entry), None) => &entry.node,
                (None, Some(factory)) => return Err(unresolved(&factory.node, Some(FACTORY), type_name, variants)),
                (None, None) => return Err(body.error(ProblemKind::MissingTarget { allowed: listed(variants) })),
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
            let help = format!("the names here are {}", list(&listed(variants)));
            return Err(tagged.at_tag(tag.wrong_type("the name of a type", Some(help))));
        };
        tagged.name = match variants.contains(&name) {
            true => name,
            false => names::canonical(name, variants).unwrap_or(name),
        };
        let name = tagged.name;
        let is_custom = variants.contains(&CUSTOM) && name.contains("::");
        let is_text = std::ptr::eq(tag, body);
        if is_text && (is_call(name) || !(is_custom || variants.contains(&name))) {
            return Err(unresolved(body, None, type_name, variants));
        }
        // The class with its argument `config` is a factory.
        if !is_text && body.get(CONFIG).is_some() && names::takes_config(name) {
            return Err(unresolved(tag, Some(TARGET), type_name, variants));
        }
        // May be the name of a factory.
        if !is_custom && !variants.contains(&name) && !variants.contains(&CUSTOM) {
            return Err(unresolved(tag, Some(TARGET), type_name, variants));
        }
        if variants.contains(&CUSTOM) {
            tagged.custom = is_custom;
            if !tagged.custom && (name == CUSTOM || !variants.contains(&name)) {
                return Err(tagged.at_tag(tag.error(unknown(tag, variants))));
            }
        }
        Ok(tagged)
    }

    /// Moves an error to the name.
    fn at_tag(&self, error: ConfigError) -> ConfigError {
        if std::ptr::eq(self.tag, self.body) {
            error.or_at(&self.tag.origin)
        } else {
            error.within(Segment::Key(TARGET.to_owned()), &self.tag.origin)
        }
    }
}

/// Returns the error of a text that names no variant: a call, a factory, or a mistake.
fn unresolved(tag: &Node, key: Option<&str>, type_name: &str, variants: &[&str]) -> ConfigError {
    tag.error(ProblemKind::UnresolvedName {
        type_name: type_name.to_owned(),
        names: owned(variants),
        key: key.map(str::to_owned),
        fallback: Box::new(unknown(tag, variants)),
    })
}

fn unknown(tag: &Node, variants: &[&str]) -> ProblemKind {
    let name = tag.as_text().map_or_else(|| tag.describe(), str::to_owned);
    let allowed = listed(variants);
    // Within a list, YAML splits a call at its commas.
    if name.contains('(') && !is_call(&name) {
        return ProblemKind::Syntax {
            reason: format!("`{name}` is an incomplete call"),
            help: Some("write a call with commas in quotes here: `\"name(a=1, b=2)\"`".to_owned()),
        };
    }
    // In a call, only the name is unknown.
    let name = name.split('(').next().unwrap_or_default().to_owned();
    ProblemKind::unknown_variant(name, allowed)
}

fn target_and_factory(factory: &Node) -> ConfigError {
    let message = format!("`{TARGET}` and `{FACTORY}` both name the type to build here");
    let help = Some(format!("leave out `{TARGET}` to call the factory"));
    factory
        .error(ProblemKind::Invalid { message, help })
        .within(Segment::Key(FACTORY.to_owned()), &factory.origin)
}

/// Returns the names that a user may write for `variants`.
fn listed(variants: &[&str]) -> Vec<String> {
    let names = variants.iter().map(|name| if *name == CUSTOM { CUSTOM_EXAMPLE } else { name });
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

/// The content of a variant.
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

    /// Returns the list under `_args_`, which must have `len` items.
    fn unnamed(&self, len: usize) -> Result<Option<&'de [Node]>, ConfigError> {
        let Some(args) = self.node.get(ARGS) else { return Ok(None) };
        let within = |error: ConfigError| error.within(Segment::Key(ARGS.to_owned()), &args.origin);
        // With `_args_` there are no named arguments.
        self.arguments().finish()?;
        let items = args.items().map_err(within)?;
        if items.len() != len {
            return Err(within(args.error(ProblemKind::Length {
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
