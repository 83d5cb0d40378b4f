//! Projectors from the vision encoder's features to the language model's width.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Kind of the projector, in the names of LLaVA and NeMo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorType {
    /// `mlp<N>x_gelu`: N linears with an activation between them. LLaVA-1.5 has `mlp2x_gelu`.
    Mlp(u32),
    /// `linear`: one linear.
    Linear,
    /// `mcore_mlp`: the same as `mlp2x_gelu`.
    McoreMlp,
    /// `mcore_affine`: the same as `linear`.
    McoreAffine,
    /// `internvl`: pixel shuffle, LayerNorm and two linears, as in `transformers.InternVLModel`.
    InternVl,
}

/// Maximum number of linears of a projector.
const MAX_LINEARS: u32 = 64;

impl ProjectorType {
    /// Returns the number of linears.
    pub fn linears(self) -> usize {
        match self {
            Self::Mlp(linears) => linears as usize,
            Self::Linear | Self::McoreAffine => 1,
            Self::McoreMlp | Self::InternVl => 2,
        }
    }

    /// Returns the name of the family whose table has its parameters.
    pub fn family(self) -> &'static str {
        match self {
            Self::Mlp(_) | Self::Linear | Self::McoreMlp | Self::McoreAffine => "mlp",
            Self::InternVl => "internvl",
        }
    }

    /// Returns the canonical name of several that compute the same: `mlp2x_gelu` for `mcore_mlp`, `linear` for
    /// `mcore_affine` and `mlp1x_gelu`.
    #[must_use]
    pub fn explicit(self) -> Self {
        match self {
            Self::McoreMlp => Self::Mlp(2),
            Self::McoreAffine | Self::Mlp(1) => Self::Linear,
            other => other,
        }
    }
}

impl fmt::Display for ProjectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mlp(linears) => write!(f, "mlp{linears}x_gelu"),
            Self::Linear => f.write_str("linear"),
            Self::McoreMlp => f.write_str("mcore_mlp"),
            Self::McoreAffine => f.write_str("mcore_affine"),
            Self::InternVl => f.write_str("internvl"),
        }
    }
}

impl FromStr for ProjectorType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "linear" => return Ok(Self::Linear),
            "mcore_mlp" => return Ok(Self::McoreMlp),
            "mcore_affine" => return Ok(Self::McoreAffine),
            "internvl" => return Ok(Self::InternVl),
            _ => {}
        }
        let linears = name.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
        match linears.and_then(|linears| linears.parse().ok()) {
            Some(linears) if (1..=MAX_LINEARS).contains(&linears) => Ok(Self::Mlp(linears)),
            _ => Err(format!(
                "unknown projector `{name}`\nknown are mlp2x_gelu (any number from 1 to {MAX_LINEARS}), linear, \
                 mcore_mlp, mcore_affine and internvl"
            )),
        }
    }
}

impl Serialize for ProjectorType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProjectorType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ProjectorType {
    fn schema_name() -> Cow<'static, str> {
        "ProjectorType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Kind of the projector, in the names of LLaVA and NeMo.",
            "type": "string",
            "pattern": "^(mlp[1-9][0-9]?x_gelu|linear|mcore_mlp|mcore_affine|internvl)$|\\$\\{",
        })
    }
}
