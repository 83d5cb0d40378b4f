//! Mapping from the parts of a sample to the fields of its type.

use std::path::Path;

use neva_schemas::SampleLoader;
use serde_json::Value as Json;

use super::{
    expression::Expression,
    metadata::{Section, invalid, read},
    raw_sample::RawSample,
    sample::{EnergonSample, Value},
    sample_type::SampleType,
};
use crate::error::DataError;

/// A sample type, and the expression of each of its fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mapping {
    pub(super) sample_type: SampleType,
    fields: Vec<(&'static str, Expression)>,
}

/// Setting of the mappings in a recipe.
pub(super) const SETTING: &str = "finetune.data.sample_loaders";

impl Mapping {
    /// Creates the mapping of a recipe's loader, for the dataset `name`.
    ///
    /// # Errors
    /// Returns the problem as an error of the setting.
    pub(super) fn of_recipe(name: &str, loader: &SampleLoader, own_type: Option<&str>) -> Result<Self, DataError> {
        let setting = format!("{SETTING}.{name}");
        let path = Path::new(&setting);
        let Some(type_name) = loader.sample_type.as_deref().or(own_type) else {
            let reason = format!("is missing: choose one of {}", SampleType::names().join(", "));
            return Err(invalid(path, "sample_type", reason));
        };
        let map = loader.field_map.iter().map(|(field, text)| (field.as_str(), text.as_str()));
        Self::new(path, type_name, map)
    }

    /// Reads the mapping of a dataset from its `dataset.yaml`, or from the recipe if it has a loader for `name`.
    ///
    /// # Errors
    /// The file is invalid, or needs Python and the recipe has no loader. The error then says what to write.
    pub(super) fn of_dataset(path: &Path, name: &str, loader: Option<&SampleLoader>) -> Result<Self, DataError> {
        if !path.exists() {
            return match loader {
                Some(loader) => Self::of_recipe(name, loader, None),
                None => Err(invalid(
                    path,
                    "",
                    format!("does not exist, so the meaning of the parts is not known: {}", advice(name, None)),
                )),
            };
        }
        let value = read(path)?;
        let file = Section::new(path, "", &value)?;
        let own_class = file.text("__class__")?;
        let own_type = match (file.get("sample_type"), own_class) {
            (Some(Json::Object(fields)), _) => match fields.get("__class__").and_then(Json::as_str) {
                Some(class) => Some(class),
                None => return Err(file.invalid("sample_type.__class__", "is missing: name Energon's type, for example VQASample")),
            },
            (Some(other), _) => {
                return Err(file.invalid(
                    "sample_type",
                    format!("must be a mapping with `__class__`, found {}", super::metadata::kind(other)),
                ));
            }
            (None, class) => class,
        };
        if let Some(loader) = loader {
            check_decoder(&file)?;
            return Self::of_recipe(name, loader, own_type.filter(|class| SampleType::named(class).is_some()));
        }
        let Some(type_name) = own_type else {
            return Err(file.invalid("sample_type", format!("is missing: {}", advice(name, None))));
        };
        if type_name.starts_with("Crude") {
            return Err(file.invalid(
                "__class__",
                format!(
                    "{type_name} is cooked by Python code, which is not executed: {}",
                    advice(name, None)
                ),
            ));
        }
        check_decoder(&file)?;
        if let Some(python) = file.text("sample_loader")? {
            return Err(file.invalid(
                "sample_loader",
                format!(
                    "{python} is Python code, which is not executed: {}",
                    advice(name, SampleType::named(type_name))
                ),
            ));
        }
        let Some(map) = file.get("field_map") else {
            return Err(file.invalid("field_map", format!("is missing: {}", advice(name, SampleType::named(type_name)))));
        };
        let map = Section::new(path, "field_map", map)?;
        let mut texts = Vec::new();
        for field in map.fields.keys() {
            if let Some(text) = map.text(field)? {
                texts.push((field.as_str(), text));
            }
        }
        Self::new(path, type_name, texts.into_iter())
    }

    fn new<'a>(path: &Path, type_name: &str, map: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, DataError> {
        let Some(sample_type) = SampleType::named(type_name) else {
            let reason = format!("{type_name} cannot be trained on: the types are {}", SampleType::names().join(", "));
            return Err(invalid(path, "sample_type", reason));
        };
        if sample_type == SampleType::Image {
            return Err(invalid(
                path,
                "sample_type",
                "ImageSample has no text to train on: use CaptioningSample, or another type with text",
            ));
        }
        let mut fields = Vec::new();
        for (field, text) in map {
            let at = format!("field_map.{field}");
            let Some(known) = sample_type.fields().find(|known| *known == field) else {
                let names: Vec<_> = sample_type.fields().collect();
                let reason = format!("{} has no such field: its fields are {}", sample_type.name(), names.join(", "));
                return Err(invalid(path, &at, reason));
            };
            let expression = Expression::parse(text).map_err(|reason| invalid(path, &at, reason))?;
            fields.push((known, expression));
        }
        let has = |field: &str| fields.iter().any(|(own, _)| *own == field);
        // A dialogue may have no image.
        let is_optional =
            |field: &str| field == "image" && matches!(sample_type, SampleType::Vqa | SampleType::VqaOcr | SampleType::MultiChoiceVqa);
        if let Some(missing) = sample_type.required().iter().find(|field| !has(field) && !is_optional(field)) {
            let reason = format!("is missing: {} needs it", sample_type.name());
            return Err(invalid(path, &format!("field_map.{missing}"), reason));
        }
        Ok(Self { sample_type, fields })
    }

    /// Maps a sample.
    ///
    /// # Errors
    /// A part is missing or invalid.
    pub(super) fn map(&self, raw: RawSample) -> Result<EnergonSample, DataError> {
        let mut fields = Vec::with_capacity(self.fields.len());
        for (name, expression) in &self.fields {
            let value = match expression.value(&raw) {
                Ok(value) => value,
                // A text-only sample of a set with images has no part for one.
                Err(_) if *name == "image" && !has_any(expression, &raw) && self.may_lack_image() => Value::Null,
                Err(error) => return Err(error),
            };
            fields.push((*name, value));
        }
        Ok(EnergonSample {
            sample_type: self.sample_type,
            fields,
            raw,
        })
    }

    fn may_lack_image(&self) -> bool {
        matches!(self.sample_type, SampleType::Vqa | SampleType::VqaOcr | SampleType::MultiChoiceVqa)
    }

    /// Adds what decides the samples to a hash.
    pub(super) fn identify(&self, hasher: &mut blake3::Hasher) {
        hasher.update(format!("{self:?}").as_bytes());
    }
}

/// Decoders of Energon that give RGB images.
const RGB: &[&str] = &["pil", "pilrgb", "rgb", "rgb8", "torch", "torchrgb", "torchrgb8"];

/// Rejects decoders whose images are not RGB.
fn check_decoder(file: &Section<'_>) -> Result<(), DataError> {
    let own = match file.get("decoder") {
        Some(Json::Object(fields)) => fields.get("image_decode"),
        _ => None,
    };
    let named = own.or_else(|| file.get("image_decode")).and_then(Json::as_str);
    match named.filter(|name| !RGB.contains(name)) {
        None => Ok(()),
        Some(name) => Err(file.invalid(
            "image_decode",
            format!("is {name}, but images are decoded as RGB: remove it, or write pilrgb"),
        )),
    }
}

/// Returns whether the sample has one of the parts that an expression reads.
fn has_any(expression: &Expression, raw: &RawSample) -> bool {
    match expression {
        Expression::FirstOf(accesses) | Expression::Parts(accesses, _) => accesses.iter().any(|access| raw.contains(&access.part)),
        Expression::Text(_) => true,
    }
}

/// Returns what to write in a recipe.
fn advice(name: &str, sample_type: Option<SampleType>) -> String {
    let sample_type = sample_type.unwrap_or(SampleType::Vqa);
    let example = |field: &str| match field {
        "image" => "jpg",
        "images" => "parts(json[images])",
        "sequence" => "parts(json[sequence], image)",
        "texts" => "json[texts]",
        "answers" => "json[answers]",
        "caption" => "json[caption]",
        "text" => "txt",
        _ => "json[question]",
    };
    let mut fields: Vec<&str> = sample_type.required().to_vec();
    fields.extend(
        ["answers", "matched_text_indices"]
            .into_iter()
            .filter(|name| sample_type.fields().any(|field| field == *name)),
    );
    let map = fields.iter().map(|field| match *field {
        "matched_text_indices" => "matched_text_indices: \"json[matched_text_indices]\"".to_owned(),
        field => format!("{field}: \"{}\"", example(field)),
    });
    let map = map.collect::<Vec<_>>().join(", ");
    format!(
        "write the mapping in the recipe, `{SETTING}: {{{name}: {{sample_type: {}, field_map: {{{map}}}}}}}`",
        sample_type.name()
    )
}
