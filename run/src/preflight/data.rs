//! Checks a run's data: its files and their first records, image folder, tokenizer, image processor.

use std::path::{Path, PathBuf};

use neva_data::{
    Broken, ChatTemplate, EnergonData, ImageSource, LlavaDataset, LlavaJsonConfig, ModelFolders, PackedSet, PreloadedTools, SkipList,
};
use neva_layout::ModelCache;
use neva_schemas::{Data, EnergonMultiModalDataModule, Finetune, ModelDescription, NevaPreloadedDataModule, OnError, Problem};

use super::{Artifacts, no_folder};

const DATA: &str = "finetune.data";

/// Tokenizer in place of one that only the ranks find.
const STAND_IN: &str = "builtin:mistral_2k";

/// Appends the problems of the data of `finetune`, whose tokenizer may be in `artifacts`. Mock data has no files, and only
/// the rank program knows the files of a custom type.
pub(super) fn problems(finetune: &Finetune, artifacts: Artifacts, cache: &ModelCache, problems: &mut Vec<Problem>) {
    if let Some(problem) = packed_set(&finetune.data) {
        problems.push(problem);
    }
    match &cache.with_paths(&finetune.data) {
        Data::Preloaded(data) => {
            let vision = vision_folder(finetune, cache);
            let model = finetune.model.description();
            let template = tools(data, model.clone(), artifacts, vision, problems);
            files(data, &model, template.as_ref(), problems);
        }
        Data::Energon(data) => energon(data, finetune, artifacts, cache, problems),
        Data::Mock(_) | Data::Custom(_) => {}
    }
}

/// Returns the problem of the run's packed set, if it has one.
fn packed_set(data: &Data) -> Option<Problem> {
    let packing = data.packing()?;
    let path = packing.set.as_deref()?;
    let reason = match PackedSet::read(path) {
        _ if !path.exists() => format!("there is no file {}", path.display()),
        Err(error) => error.to_string(),
        Ok(set) => {
            let difference = set.check_lengths(packing.row_length, packing.max_length).err()?;
            format!("{} {difference}", path.display())
        }
    };
    let problem = Problem::error(format!("{DATA}.packed_set"), reason);
    Some(problem.help("write it with `neva-run data pack RECIPE`"))
}

/// Checks tools, metadata and the first samples of an Energon dataset.
fn energon(data: &EnergonMultiModalDataModule, finetune: &Finetune, artifacts: Artifacts, cache: &ModelCache, problems: &mut Vec<Problem>) {
    let mut data = data.clone();
    let mut model = finetune.model.description();
    let stands_in = data.tokenizer.is_none() && matches!(artifacts, Artifacts::Unknown);
    let base = match artifacts {
        Artifacts::Folder(folder) => Some(folder),
        Artifacts::None | Artifacts::Unknown => None,
    };
    if stands_in {
        // Only the ranks find the tokenizer: the rest is checked with a stand-in that fits any model.
        data.tokenizer = Some(STAND_IN.to_owned());
        if let Some(decoder) = &mut model.decoder {
            decoder.config.vocab_size = usize::MAX;
        }
    }
    let vision = vision_folder(finetune, cache);
    let folders = ModelFolders {
        tokenizer: base.as_deref(),
        image_processor: vision.as_deref().or(base.as_deref()),
        record_cache: None,
    };
    match EnergonData::tools(&data, &model, folders) {
        Ok(tools) => {
            if let Err(error) = EnergonData::check(&data, &model, &tools) {
                problems.push(match error.setting() {
                    Some((setting, reason)) => Problem::error(setting, reason),
                    None => Problem::error(format!("{DATA}.path"), error.to_string()),
                });
            }
            if !stands_in {
                problems.extend(tools.warnings);
            }
        }
        Err(found) => problems.extend(found.into_iter().filter(|problem| !(stands_in && is_of_stand_in(problem)))),
    }
}

/// Returns whether a problem may be that of the tokenizer that stands in for the ranks' one.
fn is_of_stand_in(problem: &Problem) -> bool {
    problem.message.contains(STAND_IN) || problem.message.contains("writes no special token after an answer")
}

/// Returns the folder of the vision encoder, if it has its own.
pub(super) fn vision_folder(finetune: &Finetune, cache: &ModelCache) -> Option<PathBuf> {
    let parts = finetune.model.pretrained_parts();
    let (_, address) = parts.into_iter().find(|(setting, _)| *setting == "vision_model_from_pretrained")?;
    Some(cache.path_of(address))
}

/// Checks tokenizer, template and image processor. Returns the template, unless there is none.
fn tools(
    data: &NevaPreloadedDataModule,
    mut model: ModelDescription,
    artifacts: Artifacts,
    vision: Option<PathBuf>,
    problems: &mut Vec<Problem>,
) -> Option<ChatTemplate> {
    let mut data = data.clone();
    let mut stands_in = false;
    let base = match artifacts {
        Artifacts::Folder(folder) => Some(folder),
        Artifacts::None => None,
        Artifacts::Unknown => {
            if data.tokenizer.is_none() {
                // Only the ranks find the tokenizer: the rest is checked with a stand-in that fits any model.
                data.tokenizer = Some(STAND_IN.to_owned());
                stands_in = true;
                if let Some(decoder) = &mut model.decoder {
                    decoder.config.vocab_size = usize::MAX;
                }
            }
            None
        }
    };
    let folders = ModelFolders {
        tokenizer: base.as_deref(),
        image_processor: vision.as_deref().or(base.as_deref()),
        record_cache: None,
    };
    match PreloadedTools::open(&data, &model, folders) {
        Ok(tools) => {
            if !stands_in {
                problems.extend(tools.warnings);
            }
            Some(tools.template)
        }
        Err(found) => {
            // Whether the template fits the tokenizer depends on the one that the ranks find.
            problems.extend(found.into_iter().filter(|problem| !(stands_in && is_of_stand_in(problem))));
            let named = data.data_config.conv_template.as_deref();
            named.and_then(|name| ChatTemplate::named(name).ok())
        }
    }
}

fn files(data: &NevaPreloadedDataModule, model: &ModelDescription, template: Option<&ChatTemplate>, problems: &mut Vec<Problem>) {
    if let Some(Err(error)) = data.skip_list.as_deref().map(SkipList::read) {
        problems.push(Problem::error(format!("{DATA}.skip_list"), error.to_string()));
    }
    if let Some(folder) = data.data_config.image_folder.as_deref().filter(|folder| !folder.exists()) {
        // Conversations without images need no folder.
        if !data
            .paths
            .iter()
            .chain(&data.val_paths)
            .all(|path| check_first_records(data, model, template, path).is_ok())
        {
            problems.push(no_folder(&format!("{DATA}.data_config.image_folder"), folder));
            return missing_files(data, problems);
        }
    }
    let archive = data.data_config.image_folder.as_deref().filter(|path| path.is_file());
    if let Some(Err(error)) = archive.map(ImageSource::open) {
        problems.push(Problem::error(format!("{DATA}.data_config.image_folder"), error.to_string()));
        return missing_files(data, problems);
    }
    for (name, paths) in [("paths", &data.paths), ("val_paths", &data.val_paths)] {
        for (index, path) in paths.iter().enumerate() {
            let setting = format!("{DATA}.{name}[{index}]");
            if let Some(problem) = missing_file(&setting, path) {
                problems.push(problem);
            } else if let Err(error) = check_first_records(data, model, template, path) {
                problems.push(Problem::error(setting, error));
            }
        }
    }
}

fn missing_files(data: &NevaPreloadedDataModule, problems: &mut Vec<Problem>) {
    for (name, paths) in [("paths", &data.paths), ("val_paths", &data.val_paths)] {
        let missing = paths.iter().enumerate();
        problems.extend(missing.filter_map(|(index, path)| missing_file(&format!("{DATA}.{name}[{index}]"), path)));
    }
}

fn missing_file(setting: &str, path: &Path) -> Option<Problem> {
    (!path.exists()).then(|| Problem::error(setting, format!("there is no file {}", path.display())))
}

/// Checks the first records of a file. An empty list is an error only if all files are empty, which the ranks report.
fn check_first_records(
    data: &NevaPreloadedDataModule,
    model: &ModelDescription,
    template: Option<&ChatTemplate>,
    path: &Path,
) -> Result<(), String> {
    // A missing template is another problem, which is reported already.
    let Some(template) = template else { return Ok(()) };
    let paths: [PathBuf; 1] = [path.to_owned()];
    let broken = match data.on_error {
        // A skip list knows a file by the hash of its whole content, so only the run can apply it.
        _ if data.skip_list.is_some() => Broken::Skip(data.max_skipped()),
        OnError::Fail => Broken::Fail,
        OnError::Skip => Broken::Skip(data.max_skipped()),
    };
    match LlavaDataset::check_first(&LlavaJsonConfig::from_settings(data, model, template.clone(), &paths), broken) {
        Err(neva_data::DataError::NoRecords { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
