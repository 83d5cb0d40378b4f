//! Opens what a path names: a prepared dataset, a `.jsonl` file, or a metadataset that mixes others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use neva_schemas::SampleLoader;
use serde_json::Value as Json;

use super::{
    join::Join,
    leaf::Source,
    lines::Lines,
    mapping::Mapping,
    metadata::{Section, invalid, kind, read},
    mixture::Mixture,
    reference::{REFERENCE, check_multiplier, dataset_name, leaf, lines_need_mapping, target},
    subset::SampleRange,
    webdataset::{META, Webdataset},
};
use crate::error::DataError;

/// Maximum depth of metadatasets within each other.
const MAX_DEPTH: usize = 16;

/// Opens datasets for one split of a run.
pub(super) struct Opener<'a> {
    /// Mappings of the recipe, by the names of datasets.
    loaders: &'a BTreeMap<String, SampleLoader>,
    /// Names that were used.
    used: BTreeSet<String>,
    /// Reads blends as a concatenation, as validation does.
    concatenates: bool,
}

/// What a section says about the datasets within it.
#[derive(Clone, Copy)]
struct Context<'a> {
    split: &'a str,
    subset: SampleRange,
    depth: usize,
}

/// Fields of a section that mixes datasets.
const GROUP: &[&str] = &[
    "blend",
    "blend_epochized",
    "concat",
    "join",
    "joiner",
    "datasets",
    "subset",
    "weight",
    "repetitions",
    "split_part",
    "subflavors",
    "shuffle_over_epochs_multiplier",
];

impl<'a> Opener<'a> {
    pub(super) fn new(loaders: &'a BTreeMap<String, SampleLoader>, concatenates: bool) -> Self {
        Self {
            loaders,
            used: BTreeSet::new(),
            concatenates,
        }
    }

    /// Opens the split `split` of what `path` names. Returns an empty mixture if there is no such split.
    ///
    /// # Errors
    /// Something is missing or invalid; the error names the file, and the field.
    pub(super) fn open(&mut self, path: &Path, split: &str) -> Result<Mixture, DataError> {
        let context = Context {
            split,
            subset: SampleRange::WHOLE,
            depth: 0,
        };
        self.path(path, context, None)
    }

    /// Returns the names of the recipe's mappings that no dataset has used.
    pub(super) fn unused(&self) -> Vec<&'a str> {
        let names = self.loaders.keys().map(String::as_str);
        names.filter(|name| !self.used.contains(*name)).collect()
    }

    fn path(&mut self, path: &Path, context: Context<'_>, reference: Option<&Section<'_>>) -> Result<Mixture, DataError> {
        if !path.exists() {
            let reason = match path.to_str().is_some_and(|path| path.contains("://")) {
                true => "is an address: copy the dataset to a folder that all ranks see, and name it",
                false => "does not exist",
            };
            return Err(invalid(path, "", reason));
        }
        if path.is_dir() {
            return self.prepared(path, context, reference);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => {
                let source = Source::Lines(Lines::open(path)?);
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                // The lines have no split of their own: the top level is training data.
                if reference.is_none() && context.split != "train" {
                    return Ok(Mixture::default());
                }
                let loader = self.loader_at(&path.with_extension(""));
                let mapping = match loader {
                    Some(loader) => Mapping::of_recipe(&name, loader, None)?,
                    None => return Err(lines_need_mapping(path, &name)),
                };
                leaf(path, source, mapping, context.subset)
            }
            Some("yaml" | "yml") => self.metadataset(path, context),
            _ => Err(invalid(
                path,
                "",
                "is no dataset: name a prepared folder, a .yaml metadataset or a .jsonl file",
            )),
        }
    }

    fn loader(&mut self, name: &str) -> Option<&'a SampleLoader> {
        let (name, loader) = self.loaders.get_key_value(name)?;
        self.used.insert(name.clone());
        Some(loader)
    }

    /// Returns the mapping of the dataset at `path`: the one whose name is the longest end of the path.
    fn loader_at(&mut self, path: &Path) -> Option<&'a SampleLoader> {
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let names = self.loaders.keys().filter(|name| path.ends_with(name) || resolved.ends_with(name));
        let name = names.max_by_key(|name| name.len())?.clone();
        self.loader(&name)
    }

    fn prepared(&mut self, root: &Path, context: Context<'_>, reference: Option<&Section<'_>>) -> Result<Mixture, DataError> {
        let config = |name| reference.map_or(Ok(None), |section| section.text(name));
        let name = dataset_name(root);
        let loader = self.loader_at(root);
        let set = Webdataset::open(root, context.split, config("split_config")?)?;
        let Some(set) = set else { return Ok(Mixture::default()) };
        let file = root.join(META).join(config("dataset_config")?.unwrap_or("dataset.yaml"));
        let mapping = Mapping::of_dataset(&file, &name, loader)?;
        leaf(root, Source::Shards(set), mapping, context.subset)
    }

    fn metadataset(&mut self, path: &Path, context: Context<'_>) -> Result<Mixture, DataError> {
        if context.depth >= MAX_DEPTH {
            let reason = format!("is more than {MAX_DEPTH} metadatasets deep: does it name itself?");
            return Err(invalid(path, "", reason));
        }
        let value = read(path)?;
        let file = Section::new(path, "", &value)?;
        file.only(&["__module__", "__class__", "path", "splits"])?;
        let class = file.text("__class__")?.unwrap_or("Metadataset");
        if !matches!(class, "Metadataset" | "MetadatasetV2") {
            return Err(file.invalid("__class__", format!("{class} is no metadataset: write MetadatasetV2")));
        }
        let Some(splits) = file.get("splits") else {
            return Err(file.invalid("splits", "is missing: write `splits: {train: {path: FOLDER}}`"));
        };
        let splits = Section::new(path, "splits", splits)?;
        let Some(value) = splits.get(context.split) else {
            return Ok(Mixture::default());
        };
        let name = splits.field(context.split);
        self.node(&Section::new(path, &name, value)?, context)
    }

    /// Opens a section: a reference, or a mixture of others.
    fn node(&mut self, section: &Section<'_>, outer: Context<'_>) -> Result<Mixture, DataError> {
        let split = section.text("split_part")?.unwrap_or(outer.split);
        let subset = match SampleRange::read(section)? {
            None => outer.subset,
            Some(own) => own
                .within(outer.subset)
                .ok_or_else(|| section.invalid("subset", "is within a subset that counts samples: use percentages outside"))?,
        };
        let context = Context { split, subset, ..outer };
        check_multiplier(section)?;
        if section.get("path").is_some() {
            section.only(REFERENCE)?;
            if section.get("aux").is_some() {
                return Err(section.invalid(
                    "aux",
                    "is read by Python cookers only, which are not executed: remove it, or join the datasets",
                ));
            }
            let path = target(section)?;
            if subset.is_absolute() && path.is_file() && path.extension().is_some_and(|extension| extension != "jsonl") {
                return Err(section.invalid(
                    "subset",
                    "counts samples, which is possible for a dataset only: use percentages for a metadataset",
                ));
            }
            let deeper = Context {
                depth: context.depth + 1,
                ..context
            };
            return self.path(&path, deeper, Some(section));
        }
        section.only(GROUP)?;
        if subset.is_absolute() && section.get("join").is_none() {
            return Err(section.invalid(
                "subset",
                "counts samples, which is possible for a dataset only: use percentages for a mixture",
            ));
        }
        if section.get("join").is_some() {
            return self.join(section, context);
        }
        let modes = ["blend", "datasets", "blend_epochized", "concat"];
        let mut found = modes.into_iter().filter(|name| section.get(name).is_some());
        let (Some(mode), None) = (found.next(), found.next()) else {
            return Err(invalid(
                section.path,
                section.name,
                "must have one of path, blend, blend_epochized, concat, join",
            ));
        };
        let name = section.field(mode);
        let list = match section.get(mode) {
            Some(Json::Array(list)) if !list.is_empty() => list,
            Some(other) => return Err(section.invalid(mode, format!("must be a list of datasets, found {}", kind(other)))),
            None => return Ok(Mixture::default()),
        };
        let mut parts = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let name = format!("{name}[{index}]");
            let item = Section::new(section.path, &name, item)?;
            let part = self.node(&item, context)?;
            let factor = match mode {
                "blend" | "datasets" => item.number("weight")?,
                "blend_epochized" => item.number("repetitions")?,
                _ => None,
            };
            let unused = [
                ("weight", matches!(mode, "blend" | "datasets")),
                ("repetitions", mode == "blend_epochized"),
            ];
            if let Some((field, _)) = unused.iter().find(|(field, is_used)| !is_used && item.get(field).is_some()) {
                return Err(item.invalid(field, format!("has no effect in `{mode}`: remove it")));
            }
            let factor = factor.unwrap_or(1.0);
            if factor > 0.0 && part.size() == 0.0 && !self.concatenates {
                return Err(item.invalid(
                    "path",
                    format!("has no samples in the split `{split}`: remove it, or set `split_part`"),
                ));
            }
            parts.push((part, factor));
        }
        let is_blend = matches!(mode, "blend" | "datasets");
        if is_blend && !parts.iter().any(|(_, weight)| *weight > 0.0) {
            return Err(section.invalid(mode, "has no weight above 0"));
        }
        Ok(match mode {
            // Validation reads every sample once.
            _ if is_blend && self.concatenates => Mixture::concat(parts.into_iter().map(|(part, _)| part).collect()),
            _ if is_blend => Mixture::blend(parts),
            _ => Mixture::concat(parts.into_iter().map(|(part, factor)| part.repeated(factor)).collect()),
        })
    }

    fn join(&mut self, section: &Section<'_>, context: Context<'_>) -> Result<Mixture, DataError> {
        let Some(join) = Join::open(section, context.split)? else {
            return Ok(Mixture::default());
        };
        let name = join.name.clone();
        let Some(loader) = self.loader(&name) else {
            return Err(join.needs_mapping(section));
        };
        let mapping = Mapping::of_recipe(&name, loader, None)?;
        leaf(section.path, Source::Joined(join.joined(section)?), mapping, context.subset)
    }
}
