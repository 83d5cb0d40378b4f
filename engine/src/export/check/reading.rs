//! The tensors of an export by the places where its reader puts them.

use super::expected::Expected;
use super::{Subject, shown};
use crate::checkpoint::{CheckpointFolder, Extent, StoredTensors, TensorFile, hugging_face_files, read_json};
use crate::error::Result;
use neva_layout::{ExportedFiles, ModelTable, ReaderSlot};
use neva_schemas::ExportFormat;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The file of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";
/// The index of a model in several files.
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of an export by the places where its reader puts them.
#[derive(Debug)]
pub(super) struct Reading {
    reader: &'static str,
    stores: Vec<Store>,
    /// Index of a store, and a key in it.
    slots: BTreeMap<ReaderSlot, (usize, String)>,
    /// Keys that the reader ignores, that are there twice, or that the index does not name.
    problems: Vec<String>,
}

/// A file, or the files of a checkpoint.
#[derive(Debug)]
enum Store {
    File(TensorFile),
    Checkpoint(StoredTensors),
}

impl Store {
    fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            Self::Checkpoint(tensors) => tensors.path(),
        }
    }

    fn keys(&self) -> Vec<String> {
        match self {
            Self::File(file) => file.tensors().into_keys().collect(),
            Self::Checkpoint(tensors) => tensors.shapes().map(|(name, _)| name.to_owned()).collect(),
        }
    }
}

impl Reading {
    pub(super) fn open(subject: &Subject<'_>, table: &ModelTable) -> Result<Self> {
        let mut reading = Self {
            reader: subject.reader(),
            stores: Vec::new(),
            slots: BTreeMap::new(),
            problems: Vec::new(),
        };
        let mut add = |store: Store, files: ExportedFiles| {
            for key in store.keys() {
                if table.is_derived(&key) {
                    continue;
                }
                let shown = format!("`{key}` of {}", shown(store.path()));
                let Some(slot) = table.reader_slot(subject.form, files, &key) else {
                    let problem = format!("{shown} has a name that {} does not look for", subject.reader());
                    reading.problems.push(problem);
                    continue;
                };
                match reading.slots.entry(slot) {
                    // The whole model comes first. What lies beside an adapter replaces it.
                    Entry::Occupied(mut first) if files == ExportedFiles::Adapter && first.get().0 != reading.stores.len() => {
                        first.insert((reading.stores.len(), key));
                    }
                    Entry::Occupied(first) => reading.problems.push(format!("{shown} is a second tensor for {:?}", first.key())),
                    Entry::Vacant(free) => drop(free.insert((reading.stores.len(), key))),
                }
            }
            reading.stores.push(store);
        };
        if let Some(folder) = subject.model {
            if subject.form.0 == ExportFormat::Neva {
                add(Store::Checkpoint(CheckpointFolder::open(folder)?.model()?), ExportedFiles::Model);
            } else {
                for file in hugging_face_files(folder)? {
                    add(Store::File(TensorFile::open(&file)?), ExportedFiles::Model);
                }
            }
        }
        if let Some(folder) = subject.adapter {
            add(Store::File(TensorFile::open(&folder.join(ADAPTER))?), ExportedFiles::Adapter);
        }
        if let Some(index) = subject.model.map(|folder| folder.join(INDEX)).filter(|index| index.is_file()) {
            reading.check_index(&index)?;
        }
        Ok(reading)
    }

    /// Compares the index with the files, since readers find tensors by it.
    fn check_index(&mut self, index: &Path) -> Result<()> {
        let content: Value = read_json(index)?;
        let named: BTreeMap<String, PathBuf> = content["weight_map"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, file)| Some((key.clone(), PathBuf::from(file.as_str()?))))
            .collect();
        let files = self.stores.iter().filter(|store| store.path().parent() == index.parent());
        let held: BTreeMap<String, PathBuf> = files
            .flat_map(|store| {
                let file = PathBuf::from(store.path().file_name().unwrap_or_default());
                store.keys().into_iter().map(move |key| (key, file.clone()))
            })
            .collect();
        for key in named.keys().chain(held.keys()).filter(|key| named.get(*key) != held.get(*key)) {
            let place = |map: &BTreeMap<String, PathBuf>| map.get(key).map_or("nowhere".into(), |file| file.display().to_string());
            self.problems.push(format!(
                "the index says that `{key}` is in {}, it is in {}",
                place(&named),
                place(&held)
            ));
        }
        Ok(())
    }

    /// Returns every key that the reader ignores, every tensor that it misses, and every one that is not of this export.
    pub(super) fn problems(&self, expected: &Expected<'_>) -> Vec<String> {
        let due = expected.due();
        let mut problems = self.problems.clone();
        for (slot, trained) in &due {
            if !self.slots.contains_key(slot) {
                let was = if *trained { "was trained" } else { "is part of the model" };
                problems.push(format!(
                    "{} {was}, but no key of the export is one that {} loads for it",
                    told(slot),
                    self.reader
                ));
            }
        }
        for (slot, (store, key)) in &self.slots {
            if !due.contains_key(slot) && !expected.is_allowed(slot) {
                let path = shown(self.stores[*store].path());
                problems.push(format!("`{key}` of {path} is {}, which this export does not have", told(slot)));
            }
        }
        problems
    }

    /// Returns the file of the tensor of a place.
    pub(super) fn path(&self, slot: &ReaderSlot) -> &Path {
        let store = self.slots.get(slot).map(|(store, _)| &self.stores[*store]);
        store.map_or(Path::new(""), Store::path)
    }

    /// Returns where the tensor of a place lies.
    pub(super) fn extent(&self, slot: &ReaderSlot) -> Option<Extent> {
        let (store, key) = self.slots.get(slot)?;
        match &self.stores[*store] {
            Store::File(file) => file.extent(key),
            Store::Checkpoint(tensors) => tensors.extent(key),
        }
    }

    /// Returns whether a place has a tensor.
    pub(super) fn has(&self, slot: &ReaderSlot) -> bool {
        self.slots.contains_key(slot)
    }

    /// Returns whether the reader takes a parameter from the base's own folder.
    pub(super) fn is_of_base(&self, expected: &Expected<'_>, name: &str) -> bool {
        let has_none = || expected.slots_of(name).iter().all(|slot| !self.has(slot));
        expected.is_partial() && !expected.trained().contains(name) && has_none()
    }

    /// Reads the tensor of a place.
    pub(super) fn read(&self, slot: &ReaderSlot) -> Result<Option<Tensor>> {
        let Some((store, key)) = self.slots.get(slot) else {
            return Ok(None);
        };
        match &self.stores[*store] {
            Store::File(file) => file.read(key, None),
            Store::Checkpoint(tensors) => tensors.read_whole(key),
        }
        .map(Some)
    }
}

/// Returns the name of a place for messages.
pub(super) fn told(slot: &ReaderSlot) -> String {
    match slot {
        ReaderSlot::Parameter(name) => format!("`{name}`"),
        ReaderSlot::A(linear) => format!("A of the adapter of `{linear}`"),
        ReaderSlot::B(linear) => format!("B of the adapter of `{linear}`"),
        ReaderSlot::Magnitude(linear) => format!("the magnitude of the adapter of `{linear}`"),
    }
}
