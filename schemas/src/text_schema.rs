//! Schemas of texts, which files may write as numbers without quotes.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Schema of a map of strings, in which a file may write `OMP_NUM_THREADS: 4` without quotes.
pub(crate) fn text_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

/// Schema of a text, which a file may write as a number without quotes: `time: 90`.
pub(crate) fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number"] })
}

/// As [`text`], or `null`.
pub(crate) fn optional_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number", "null"] })
}

/// Schema of a list of texts as [`text`].
pub(crate) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": ["string", "number"] } })
}
