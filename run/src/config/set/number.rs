//! Arithmetic of `+=`, `-=`, `*=` and `/=`.

use crate::config::node::{Node, Value, resolve};

/// An operation on numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// A number, exact as long as possible.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    /// Returns the number in `node`, unless it is quoted.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let resolved;
        let value = match &node.value {
            Value::Plain(text) => {
                resolved = resolve(text);
                &resolved
            }
            value => value,
        };
        match value {
            Value::Int(value) => Some(Self::Int(*value)),
            Value::Float(value) => Some(Self::Float(*value)),
            _ => None,
        }
    }

    pub(super) fn is_zero(self) -> bool {
        matches!(self, Self::Int(0) | Self::Float(0.0))
    }

    /// Computes the result; `None` for a division by zero and for an overflow.
    pub(super) fn compute(self, operation: Arithmetic, right: Self) -> Option<Self> {
        if let (Self::Int(left), Self::Int(right)) = (self, right) {
            let exact = match operation {
                Arithmetic::Add => left.checked_add(right),
                Arithmetic::Subtract => left.checked_sub(right),
                Arithmetic::Multiply => left.checked_mul(right),
                // 8 / 2 stays an integer; 1 / 2 becomes a float below.
                Arithmetic::Divide if right != 0 && left % right == 0 => left.checked_div(right),
                Arithmetic::Divide => None,
            };
            if exact.is_some() || operation != Arithmetic::Divide {
                return exact.map(Self::Int);
            }
        }
        let (left, right) = (self.float(), right.float());
        let value = match operation {
            Arithmetic::Add => left + right,
            Arithmetic::Subtract => left - right,
            Arithmetic::Multiply => left * right,
            Arithmetic::Divide => left / right,
        };
        value.is_finite().then_some(Self::Float(value))
    }

    fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        match number {
            Number::Int(value) => Self::Int(value),
            Number::Float(value) => Self::Float(value),
        }
    }
}
