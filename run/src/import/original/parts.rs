//! The parts of a checkpoint of the original LLaVA repository, by the names of the hub's files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use neva_layout::{
    Families,
    families::{OriginalLlava, has_vocabulary_rows, is_vision_name, original_name},
};
use neva_weights::{StoredTensor, WeightFile};
use serde_json::Value;

use super::adapter::Adapter;
use crate::{
    hub::{NON_LORA, PROJECTOR},
    import::{
        ImportError, ImportOptions, check,
        sources::{Found, Sources},
        tensors::At,
        weights::{self, more},
    },
};

/// All tensors of the parts, and the folders of tokenizer and image processor.
pub(super) struct Parts {
    pub(super) files: Vec<WeightFile>,
    /// Tensors by the names of the hub's files.
    pub(super) tensors: BTreeMap<String, At>,
    pub(super) adapter: Option<Adapter>,
    /// Config of the vision encoder; `None`: it follows from the tensors.
    pub(super) vision_config: Option<Value>,
    pub(super) vision_folder: Option<PathBuf>,
    pub(super) tokenizer_folder: PathBuf,
    pub(super) converted: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
    /// Number of the first files, which are those of the base.
    base_files: usize,
}

impl Parts {
    /// Finds and opens all parts.
    pub(super) fn find(
        found: &Found,
        original: &OriginalLlava,
        options: &ImportOptions,
        sources: &mut Sources<'_, '_>,
    ) -> Result<Self, ImportError> {
        let folder = found.folder.as_path();
        let mut parts = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            adapter: None,
            vision_config: None,
            vision_folder: None,
            tokenizer_folder: folder.to_owned(),
            converted: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
            base_files: 0,
        };
        let adapter = Adapter::file_in(folder);
        let own = match &found.file {
            Some(file) => Some(vec![file.clone()]),
            None => weights::files(folder)?.map(|(names, _)| names.iter().map(|name| folder.join(name)).collect()),
        };
        let has_base = own.is_some() && options.base.is_none();
        if !has_base {
            let named = options.base.as_deref().or_else(|| original.base());
            let named = match (named, &adapter) {
                (None, Some(_)) => Adapter::base_of(folder)?,
                (named, _) => named.map(str::to_owned),
            };
            let named = named.ok_or_else(|| ImportError::Content {
                path: folder.to_owned(),
                problems: vec!["it has only a part of a model, and names no base".to_owned()],
                help: Some("name the folder of the language model: --base DIR".to_owned()),
            })?;
            let base = sources.part(&named, folder, "--base")?;
            parts.add_base(&base)?;
            parts.base_files = parts.files.len();
            if neva_data::Tokenizer::file_in(folder).is_none() {
                parts.tokenizer_folder = base;
            }
        }
        let mut foreign = Vec::new();
        for path in own.into_iter().flatten() {
            foreign.extend(parts.add(&path, false, original_name)?);
        }
        for (name, what) in [(PROJECTOR, "projector"), (NON_LORA, "weights that are no adapters")] {
            let path = folder.join(name);
            // A whole model may have a copy of its projector beside it.
            let is_copy = name == PROJECTOR && has_base;
            if found.file.is_none() && path.is_file() && !is_copy {
                foreign.extend(parts.add(&path, true, original_name)?);
                parts.converted.push(format!("the {what} of {name}"));
            }
        }
        if let Some(path) = adapter.filter(|_| found.file.is_none()) {
            let adapter = Adapter::open(folder, &path, parts.files.len())?;
            parts
                .converted
                .push(format!("{} adapters merged into their linears", adapter.0.linears().count()));
            parts.files.push(adapter.1);
            parts.adapter = Some(adapter.0);
        }
        foreign.retain(|name| !name.ends_with(".inv_freq"));
        if let Some((first, rest)) = foreign.split_first() {
            let more = more(rest.len());
            parts
                .warnings
                .push(format!("`{first}`{more} belong to no part of the model and are ignored"));
        }
        parts.find_vision(found, original, options, sources)?;
        Ok(parts)
    }

    /// Adds the tensors of a file. Returns the names of those that have no place. `replaces`: they may replace others.
    fn add(&mut self, path: &Path, replaces: bool, rename: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, ImportError> {
        let (file, mut foreign) = (WeightFile::open(path)?, Vec::new());
        let first_of_file = self.files.len();
        for (index, tensor) in file.tensors().iter().enumerate() {
            let name = &tensor.info.name;
            let Some(new) = rename(name) else {
                foreign.push(name.clone());
                continue;
            };
            let at = At {
                file: first_of_file,
                tensor: index,
            };
            let old = self.tensors.insert(new.clone(), at);
            if old.is_some_and(|old| old.file == first_of_file || !replaces && !self.is_base(old)) {
                self.problems.push(format!("`{name}` is a second tensor for `{new}`"));
            }
        }
        self.files.push(file);
        Ok(foreign)
    }

    /// Returns whether a tensor is one of a base, which other files replace.
    fn is_base(&self, at: At) -> bool {
        at.file < self.base_files
    }

    /// Adds the language model of a folder in any form.
    fn add_base(&mut self, folder: &Path) -> Result<(), ImportError> {
        let config = check::config(folder)?;
        let whole = Families::builtin().folder_model(&config).ok().filter(|model| model.part.is_none());
        let rename = |name: &str| match &whole {
            Some(model) => model.table.canonical_name(name).map(|canonical| model.table.hub_name(&canonical)),
            None => original_name(name),
        };
        let Some((names, _)) = weights::files(folder)? else {
            return Err(weights::none(folder));
        };
        for name in names {
            self.add(&folder.join(name), true, rename)?;
        }
        if whole.is_some() {
            self.vision_config = config.get("vision_config").cloned();
            self.vision_folder = Some(folder.to_owned());
        }
        Ok(())
    }

    /// Finds the vision encoder, whose weights the checkpoint may lack.
    fn find_vision(
        &mut self,
        found: &Found,
        original: &OriginalLlava,
        options: &ImportOptions,
        sources: &mut Sources<'_, '_>,
    ) -> Result<(), ImportError> {
        const OPTION: &str = "--vision-tower";
        let has_weights = self.tensors.keys().any(|name| is_vision_name(name));
        if has_weights && self.vision_config.is_some() && options.vision_tower.is_none() {
            return Ok(());
        }
        let folder = found.folder.as_path();
        let named = options.vision_tower.as_deref().or_else(|| original.vision_tower());
        let path = match (named, &options.vision_tower) {
            (None, _) if has_weights => None,
            (None, _) => {
                return Err(ImportError::Content {
                    path: folder.to_owned(),
                    problems: vec!["it has no vision encoder, and names none".to_owned()],
                    help: Some(format!("name the folder of the vision encoder: {OPTION} DIR")),
                });
            }
            // Weights of its own need the sizes only, which follow from the shapes.
            (Some(named), None) if has_weights => sources.local_part(named, folder),
            (Some(named), _) => Some(sources.part(named, folder, OPTION)?),
        };
        let Some(path) = path else { return Ok(()) };
        let config = check::config(&path)?;
        let model = Families::builtin()
            .folder_model(&config)
            .map_err(|error| ImportError::content(&path, error.to_string()))?;
        let section = model.table.write_config();
        self.vision_config = section.get("vision_config").cloned();
        self.vision_folder = Some(path.clone());
        if has_weights {
            return Ok(());
        }
        let Some((names, _)) = weights::files(&path)? else {
            return Err(weights::none(&path));
        };
        for name in names {
            let part = |name: &str| model.table.canonical_part_name(neva_layout::Part::Vision, name);
            let hub = |name: &str| part(name).map(|canonical| model.table.hub_name(&canonical));
            // Other parts of a CLIP are not needed.
            self.add(&path.join(name), true, hub)?;
        }
        self.converted.push(format!("the vision encoder of {}", path.display()));
        Ok(())
    }

    /// Returns a tensor.
    pub(super) fn stored(&self, name: &str) -> Option<&StoredTensor> {
        let at = self.tensors.get(name)?;
        self.tensor(*at)
    }

    fn tensor(&self, at: At) -> Option<&StoredTensor> {
        self.files.get(at.file)?.tensors().get(at.tensor)
    }

    /// Returns the shapes of all tensors.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |(name, at): (&String, &At)| Some((name.clone(), self.tensor(*at)?.info.shape.clone()));
        self.tensors.iter().filter_map(shape).collect()
    }

    /// Returns the number of rows of the embedding.
    pub(super) fn vocabulary_rows(&self) -> Option<usize> {
        let name = self.tensors.keys().find(|name| has_vocabulary_rows(name))?;
        self.stored(name)?.info.shape.first().copied()
    }

    /// Returns the problem of an adapter whose tensors do not fit their linear.
    pub(super) fn misfit(&self, name: &str, (a, b): (At, At), shape: &[usize]) -> Option<String> {
        let (a, b) = (&self.tensor(a)?.info.shape, &self.tensor(b)?.info.shape);
        let fits = matches!((&a[..], &b[..], shape), ([r, i], [o, s], [rows, width]) if r == s && i == width && o == rows);
        (!fits).then(|| format!("the adapter of `{name}` has the shapes {a:?} and {b:?}, but the linear {shape:?}"))
    }
}
