//! The section `join` of a metadataset.

use serde_json::Value as Json;

use super::{
    joined::{Joined, Member, Nonmatch},
    mapping::SETTING,
    metadata::Section,
    reference::{REFERENCE, check_multiplier, dataset_name, target},
    webdataset::Webdataset,
};
use crate::error::DataError;

/// The datasets of a join.
pub(super) struct Join {
    /// Name of its mapping in the recipe: the names of the folders, with `+` between them.
    pub(super) name: String,
    members: Vec<Member>,
}

impl Join {
    /// Opens the datasets of a section, in `split` where they name no other. `None`: one of them has no such split.
    ///
    /// # Errors
    /// A dataset is missing or invalid.
    pub(super) fn open(section: &Section<'_>, split: &str) -> Result<Option<Self>, DataError> {
        let name = section.field("join");
        let members: Vec<(String, &Json)> = match section.get("join") {
            Some(Json::Object(fields)) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
            Some(Json::Array(list)) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
            _ => return Err(section.invalid("join", "must be a mapping of names to datasets")),
        };
        if members.len() < 2 {
            return Err(section.invalid("join", "must have at least two datasets"));
        }
        let mut opened = Vec::new();
        let mut folders = Vec::new();
        for (own, value) in members {
            let name = format!("{name}.{own}");
            let item = Section::new(section.path, &name, value)?;
            item.only(REFERENCE)?;
            check_multiplier(&item)?;
            if item.get("path").is_none() {
                return Err(item.invalid("path", "is missing: name a prepared dataset"));
            }
            let path = target(&item)?;
            if !path.is_dir() {
                return Err(item.invalid(
                    "path",
                    format!("{} is no prepared dataset: only these can be joined", path.display()),
                ));
            }
            let nonmatch = match item.text("nonmatch")?.unwrap_or("error") {
                "error" => Nonmatch::Error,
                "skip" => Nonmatch::Skip,
                "none" => Nonmatch::Without,
                other => return Err(item.invalid("nonmatch", format!("is `{other}`, it must be error, skip or none"))),
            };
            let split = item.text("split_part")?.unwrap_or(split);
            let Some(set) = Webdataset::open(&path, split, item.text("split_config")?)? else {
                return Ok(None);
            };
            folders.push(dataset_name(&path));
            opened.push(Member { name: own, set, nonmatch });
        }
        Ok(Some(Self {
            name: folders.join("+"),
            members: opened,
        }))
    }

    /// Returns the error of a join without a mapping.
    pub(super) fn needs_mapping(&self, section: &Section<'_>) -> DataError {
        let name = |member: Option<&Member>| member.map_or("0", |member| member.name.as_str()).to_owned();
        let (first, last) = (name(self.members.first()), name(self.members.last()));
        let reason = format!(
            "is joined by Python code (`joiner`), which is not executed: write the mapping in the recipe, `{SETTING}: {{{}: {{sample_type: \
             VQASample, field_map: {{image: \"{first}.jpg\", context: \"{last}.json[question]\", answers: \"{last}.json[answers]\"}}}}}}`",
            self.name
        );
        section.invalid("join", reason)
    }

    /// Joins the samples.
    ///
    /// # Errors
    /// A shard cannot be read, or a key is missing where it must not.
    pub(super) fn joined(self, section: &Section<'_>) -> Result<Joined, DataError> {
        let missing = |member: &str, key: &str| {
            section.invalid(
                &format!("join.{member}"),
                format!("has no sample {key}: add it, or set `nonmatch: skip` or `nonmatch: none`"),
            )
        };
        Joined::new(self.members, missing)
    }
}
