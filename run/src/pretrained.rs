//! Models that a run names by an address. Their sizes are read while the run is resolved, and their files are downloaded
//! before ranks start.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use neva_layout::{Families, HubAddress, ModelCache, missing_model};
use neva_schemas::{Model, Problem, Run};
use serde_json::Value;

use crate::{
    environment,
    hub::{Hub, HubError, HubSettings, Notice, Requested},
};

/// The setting that names a model.
pub(crate) const FROM_PRETRAINED: &str = "finetune.model.from_pretrained";

/// A named model, without its weights.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// Its sizes.
    pub model: Model,
    /// The file with the sizes.
    pub file: PathBuf,
    /// The text of that file.
    pub text: String,
}

/// Reads the sizes of the model at `address`: a Hugging Face folder, a checkpoint of this program, `nemo://ORG/NAME` or
/// `hf://ORG/NAME[@REVISION]`, whose `config.json` is downloaded unless Hugging Face's cache has it.
///
/// A run that is built in Rust sets `finetune.model = pretrained(address)?.model`, and the same address in
/// `resume.restore_config`.
///
/// # Errors
/// There is no such model, or its `config.json` describes an unknown one.
pub fn pretrained(address: &str) -> Result<Pretrained, Problem> {
    let problem = |message: String| Problem::error(FROM_PRETRAINED, message);
    let folder = match HubAddress::of(address) {
        Some(hub) => {
            let fetched = hub.map_err(HubError::from).and_then(|hub| fetch_config(address, &hub));
            fetched.map_err(|error| {
                let problem = problem(error.to_string());
                error.help().into_iter().fold(problem, Problem::help)
            })?
        }
        None => environment::expand_home(&ModelCache::locate(environment::variable).path_of(address)),
    };
    if !folder.is_dir() {
        return Err(missing_model(FROM_PRETRAINED, address, &folder));
    }
    let read = |name: &str| {
        let file = folder.join(name);
        let text = fs::read_to_string(&file).map_err(|error| problem(format!("cannot read {}: {error}", file.display())))?;
        Ok::<_, Problem>((file, text))
    };
    // A checkpoint records its run.
    if folder.join("checkpoint.json").is_file() {
        let (file, text) = read("run.json")?;
        let run: Run = serde_json::from_str(&text).map_err(|error| problem(format!("{}: {error}", file.display())))?;
        return Ok(Pretrained {
            model: run.finetune.model,
            file,
            text,
        });
    }
    let (file, text) = read("config.json")?;
    let config: Value = serde_json::from_str(&text).map_err(|error| problem(format!("{} is not JSON: {error}", file.display())))?;
    let model = Families::builtin().read_config(&config);
    let model = model.map_err(|error| problem(format!("{}: {error}", file.display())))?;
    Ok(Pretrained { model, file, text })
}

/// Returns a folder with the config of a model of the hub.
fn fetch_config(address: &str, hub: &HubAddress) -> Result<PathBuf, HubError> {
    // An imported model is available even if the hub's cache was deleted.
    let known = ModelCache::locate(environment::variable).path_of(address);
    if known.join("config.json").is_file() {
        return Ok(known);
    }
    let settings = HubSettings::read(environment::variable)?;
    Hub::new(settings).fetch(hub, Requested::Config, &mut |text| tracing::info!("{text}"))
}

/// Downloads the models of the hub that `run` names and this machine lacks. Its ranks have `variables` in addition to the
/// environment of this process, and only read the cache.
///
/// # Errors
/// A model cannot be downloaded.
pub(crate) fn fetch(run: &Run, variables: &BTreeMap<String, String>, notice: Notice<'_>) -> Result<(), HubError> {
    fetch_all(addresses(run), variables, notice)
}

/// Does the same for tokenizers and image processors alone.
///
/// # Errors
/// A model cannot be downloaded.
pub(crate) fn fetch_tools(run: &Run, variables: &BTreeMap<String, String>, notice: Notice<'_>) -> Result<(), HubError> {
    let tools = addresses(run).into_iter().map(|(address, _)| (address, Requested::Tools));
    fetch_all(tools.collect(), variables, notice)
}

fn fetch_all(addresses: Vec<(String, Requested)>, variables: &BTreeMap<String, String>, notice: Notice<'_>) -> Result<(), HubError> {
    let lookup = |name: &str| variables.get(name).cloned().or_else(|| environment::variable(name));
    let mut hub = None;
    for (address, requested) in addresses {
        let Some(named) = HubAddress::of(&address) else { continue };
        let named = named?;
        let cache = ModelCache::locate(lookup);
        if is_imported(&cache, &named) {
            continue;
        }
        let hub = match &hub {
            Some(hub) => hub,
            None => hub.insert(Hub::new(HubSettings::read(lookup)?)),
        };
        hub.fetch(&named, requested, notice)?;
    }
    Ok(())
}

/// Returns whether ranks load an imported model, because the hub's cache does not have it.
fn is_imported(cache: &ModelCache, address: &HubAddress) -> bool {
    let imported: &Path = &cache.path.join(&address.repository);
    cache.path_of(&address.to_string()) == imported && imported.join("config.json").is_file()
}

/// Returns every address of a model in a run, with the files that the run needs.
fn addresses(run: &Run) -> Vec<(String, Requested)> {
    let finetune = &run.finetune;
    let mut found = Vec::new();
    if let Some(restore) = &finetune.resume.restore_config {
        let requested = if restore.load_model_state {
            Requested::Model
        } else {
            Requested::Tools
        };
        found.push((restore.path.clone(), requested));
    }
    let parts = finetune.model.pretrained_parts().into_iter();
    found.extend(parts.map(|(_, address)| (address.to_owned(), Requested::Model)));
    if let Some((tokenizer, image_processor)) = finetune.data.clone().tools_mut() {
        let processor = image_processor.as_ref().and_then(|path| path.to_str()).map(str::to_owned);
        found.extend(
            tokenizer
                .clone()
                .into_iter()
                .chain(processor)
                .map(|address| (address, Requested::Tools)),
        );
    }
    found
}
