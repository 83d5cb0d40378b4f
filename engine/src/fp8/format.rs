//! FP8 formats of GEMM operands (arXiv:2209.05433).

use neva_schemas::Fp8Format;
use tch::Kind;

/// FP8 format of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bits of exponent, 3 of mantissa, no infinity.
    E4m3,
    /// 5 bits of exponent, 2 of mantissa.
    E5m2,
}

/// Role of a tensor in the GEMMs of a linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Input of the forward pass.
    Input,
    /// Weight.
    Weight,
    /// Gradient of the output.
    Gradient,
}

impl Role {
    /// All roles, in the order of a linear's scaling state.
    pub const ALL: [Self; 3] = [Self::Input, Self::Weight, Self::Gradient];
}

impl Format {
    /// Returns the format of a tensor in a run.
    pub fn of(formats: Fp8Format, role: Role) -> Self {
        match (formats, role) {
            (Fp8Format::Hybrid, Role::Gradient) => Self::E5m2,
            (Fp8Format::Hybrid | Fp8Format::E4m3, _) => Self::E4m3,
        }
    }

    /// Returns the largest finite value.
    pub const fn max(self) -> f64 {
        match self {
            Self::E4m3 => 448.0,
            Self::E5m2 => 57344.0,
        }
    }

    /// Returns libtorch's data type.
    pub const fn kind(self) -> Kind {
        match self {
            Self::E4m3 => Kind::Float8e4m3fn,
            Self::E5m2 => Kind::Float8e5m2,
        }
    }
}
