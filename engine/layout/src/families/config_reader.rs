//! Fields of a Hugging Face `config.json`, read one by one; all problems are collected.

use neva_schemas::Activation;
use serde_json::Value;

/// Error of an unsupported `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HfConfigError {
    /// Not a JSON object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The file has unsupported settings, or values of the wrong type.
    #[error("{}", .0.join("; "))]
    Unsupported(Vec<String>),
}

/// Reads fields of JSON objects and collects problems. `at` is the path of the object with a trailing dot, or empty.
/// Absent fields and `null` take the default.
#[derive(Debug, Default)]
pub struct ConfigReader {
    problems: Vec<String>,
}

impl ConfigReader {
    /// Returns `value`, or all problems.
    ///
    /// # Errors
    /// There is a problem.
    pub fn finish<T>(self, value: T) -> Result<T, HfConfigError> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(HfConfigError::Unsupported(self.problems))
        }
    }

    /// Adds a problem.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Adds a problem unless the text `name` is one of `known`.
    pub fn expect(&mut self, object: &Value, at: &str, name: &str, known: &[&str], default: &str) {
        let value = object.get(name).map_or(Some(default), Value::as_str);
        if !value.is_some_and(|value| known.contains(&value)) {
            self.problems
                .push(format!("`{at}{name}` is {}, supported: {}", object[name], known.join(", ")));
        }
    }

    /// Adds a problem if the weights are quantized.
    pub fn expect_unquantized(&mut self, object: &Value, at: &str) {
        if let Some(quantization) = object.get("quantization_config").filter(|value| !value.is_null()) {
            self.problems.push(format!(
                "`{at}quantization_config` is {quantization}: quantized weights cannot be trained; use the original \
                 weights"
            ));
        }
    }

    /// Returns a size.
    pub fn size(&mut self, object: &Value, at: &str, name: &str, default: usize) -> usize {
        match object.get(name) {
            None | Some(Value::Null) => default,
            // A size beyond 2^31 is a mistake, and would overflow products of two of them.
            Some(value) => value.as_u64().filter(|size| *size < 1 << 31).map_or_else(
                || {
                    self.problems.push(format!("`{at}{name}` is {value}, expected a size"));
                    default
                },
                |size| size as usize,
            ),
        }
    }

    /// Returns the side of a square: a size, or a list of two equal ones.
    pub fn square(&mut self, object: &Value, at: &str, name: &str, default: usize) -> usize {
        match object.get(name) {
            Some(Value::Array(sides)) => match &sides[..] {
                [height, width] if height == width => self.size(&serde_json::json!({ name: height }), at, name, default),
                _ => {
                    self.problems
                        .push(format!("`{at}{name}` is {}, supported are squares", object[name]));
                    default
                }
            },
            _ => self.size(object, at, name, default),
        }
    }

    /// Returns an integer.
    pub fn integer(&mut self, object: &Value, at: &str, name: &str, default: i64) -> i64 {
        self.value(object, at, name, default, "an integer", Value::as_i64)
    }

    /// Returns a number.
    pub fn number(&mut self, object: &Value, at: &str, name: &str, default: f64) -> f64 {
        self.value(object, at, name, default, "a number", Value::as_f64)
    }

    /// Returns a flag.
    pub fn boolean(&mut self, object: &Value, at: &str, name: &str, default: bool) -> bool {
        self.value(object, at, name, default, "true or false", Value::as_bool)
    }

    /// Returns an activation function; `None` for an absent one.
    pub fn activation(&mut self, object: &Value, at: &str, name: &str) -> Option<Activation> {
        let written = object.get(name).filter(|value| !value.is_null())?;
        // Hugging Face has two names for SiLU.
        let wanted = written.as_str().map(|name| if name == "swish" { "silu" } else { name });
        let found = Activation::ALL.into_iter().find(|activation| wanted == Some(activation.name()));
        if found.is_none() {
            let known: Vec<_> = Activation::ALL.into_iter().map(Activation::name).collect();
            self.problems
                .push(format!("`{at}{name}` is {written}, supported: {}", known.join(", ")));
        }
        found
    }

    fn value<T>(&mut self, object: &Value, at: &str, name: &str, default: T, what: &str, read: fn(&Value) -> Option<T>) -> T {
        match object.get(name) {
            None | Some(Value::Null) => default,
            Some(value) => read(value).unwrap_or_else(|| {
                self.problems.push(format!("`{at}{name}` is {value}, expected {what}"));
                default
            }),
        }
    }
}
