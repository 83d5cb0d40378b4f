//! Partly bound descriptions, which get their last arguments later.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};

use super::{
    bound_items::{BOUND, is_missing},
    emit::{to_json, to_yaml_string},
    error::{ConfigError, ProblemKind},
    factory::{Factories, build, expand},
    merge::merge,
    node::{Entry, Map, Node, PARTIAL, TARGET, Value},
    origin::{Origin, Source},
    path::{Path, Segment},
    problems::Problems,
    ser::to_node,
    yaml,
};

/// The arguments of a `T` that are known so far: `Partial<Bound<LrScheduler>>` is a schedule without its last arguments,
/// as `run.Partial(schedule, ..)` is in NeMo-Run. Given arguments are checked at once; [`complete`](Self::complete) adds
/// the missing ones.
///
/// ```
/// use neva_run::config::{Bound, Partial};
/// use neva_schemas::LrScheduler;
/// use serde_json::json;
///
/// let schedule = Partial::new(Bound::<LrScheduler>::new(&json!({ "_target_": "WSD", "warmup_steps": 5 }))?);
/// let schedule = schedule.complete(&json!({ "decay_steps": 20 }))?;
/// assert!(matches!(schedule, LrScheduler::Wsd { warmup_steps: 5, decay_steps: 20, .. }));
/// # Ok::<(), neva_run::config::Problems>(())
/// ```
pub struct Bound<T> {
    node: Node,
    target: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Bound<T> {
    /// Binds the arguments in the map `known`, with `_target_` if `T` is an enum.
    ///
    /// # Errors
    /// An argument that `T` does not have, or of another type.
    pub fn new(known: &impl Serialize) -> Result<Self, Problems> {
        Self::from_tree(to_node(known, Origin::Default)?)
    }

    fn from_tree(mut node: Node) -> Result<Self, Problems> {
        if let Value::Map(map) = &mut node.value {
            map.shift_remove(PARTIAL);
        }
        expand::<T>(&mut node, &Factories::builtin())?;
        match T::deserialize(&node) {
            Err(error) if !is_missing(&error) => Err(error.with_fallback(|_| Vec::new()).into()),
            _ => Ok(Self { node, target: PhantomData }),
        }
    }

    /// Builds the `T` from these arguments and the map `late` of further ones.
    ///
    /// # Errors
    /// An argument that is given twice or still missing, or a value of a wrong type.
    pub fn complete(&self, late: &impl Serialize) -> Result<T, Problems> {
        let late = to_node(late, Origin::Default)?;
        let twice = late.as_map().into_iter().flat_map(Map::keys).find_map(|name| {
            let given = self.node.get(name)?;
            let message = format!("`{name}` is given here and when the description is completed");
            let help = Some("leave it out here".to_owned());
            let path = Path(vec![Segment::Key(name.clone())]);
            Some(ConfigError::new(
                path,
                Some(given.origin.clone()),
                ProblemKind::Invalid { message, help },
            ))
        });
        if let Some(error) = twice {
            return Err(error.into());
        }
        let mut node = match &self.node.value {
            Value::Map(_) => self.node.clone(),
            // Only the name of a type.
            _ => as_target(&self.node),
        };
        merge(&mut node, late);
        build(&mut node, &Factories::builtin())
    }
}

/// Returns `{_target_: name}` for a bare name.
fn as_target(node: &Node) -> Node {
    let entry = Entry {
        key: node.origin.clone(),
        node: node.clone(),
    };
    Node::new(node.origin.clone(), Value::Map(Map::from([(TARGET.to_owned(), entry)])))
}

impl<T> Clone for Bound<T> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
            target: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bound").field(&to_yaml_string(&self.node)).finish()
    }
}

impl<T> PartialEq for Bound<T> {
    fn eq(&self, other: &Self) -> bool {
        to_json(&self.node) == to_json(&other.node)
    }
}

impl<T> Serialize for Bound<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_json(&self.node).serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Bound<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(BOUND, BoundVisitor(PhantomData))
    }
}

struct BoundVisitor<T>(PhantomData<fn() -> T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for BoundVisitor<T> {
    type Value = Bound<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the arguments that are known so far")
    }

    /// Reads a tree: its text, which keeps scalars as typed, then the check of the given arguments at their places.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bound<T>, A::Error> {
        let text: String = items.next_element()?.unwrap_or_default();
        // `None` if only arguments are missing.
        items.next_element::<T>()?;
        let node = yaml::parse(&Source::new("the description", text)).map_err(de::Error::custom)?;
        Ok(Bound { node, target: PhantomData })
    }

    /// Reads any other serde format.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bound<T>, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Bound::new(&value).map_err(de::Error::custom)
    }
}
