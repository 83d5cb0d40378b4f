//! Lowers a resolved run to the launch plan that ranks read.
//!
//! The working directory and the time are arguments, so that the same inputs give the same bytes.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use neva_layout::is_model_address;
use neva_schemas::{Data, LaunchPlan, PLAN_FORMAT, Run};

/// Default folder of all runs, as in NeMo.
const DEFAULT_DIR: &str = "nemo_experiments";

/// Lowers a valid `run`, started in the folder `cwd` (absolute) at local time `started`, to its plan.
///
/// The run's folder is `<log_dir, else dir, else ./nemo_experiments>/<name>/<date>`, as NeMo's logger
/// names it. Every relative path of the run becomes absolute, because ranks may start in another folder.
pub fn lower(run: &Run, cwd: &Path, started: DateTime) -> LaunchPlan {
    lower_with(run, cwd, |_| None, started)
}

/// As [`lower`], but relative paths of the run are relative to the folder that `paths` returns for the run's folder, if any.
pub(crate) fn lower_with(run: &Run, cwd: &Path, paths: impl FnOnce(&Path) -> Option<PathBuf>, started: DateTime) -> LaunchPlan {
    let mut run = run.clone();
    let log = &mut run.finetune.log;
    let parent = log
        .log_dir
        .get_or_insert_with(|| run.dir.clone().unwrap_or_else(|| DEFAULT_DIR.into()));
    *parent = absolute(cwd, parent);
    let run_dir = parent.join(&log.name).join(started.strftime("%Y-%m-%d_%H-%M-%S").to_string());
    run.dir.iter_mut().for_each(|dir| *dir = absolute(cwd, dir));
    absolute_paths(&mut run, paths(&run_dir).as_deref().unwrap_or(cwd));
    LaunchPlan {
        format: PLAN_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: run.finetune.log.name.clone(),
        run_dir,
        num_nodes: run.finetune.trainer.num_nodes,
        ranks_per_node: run.finetune.trainer.devices,
        env: Default::default(),
        run,
    }
}

/// Moves a plan that has not started to another folder, with the paths of its run that are within the old one.
pub(crate) fn move_to(plan: &mut LaunchPlan, folder: PathBuf) {
    let old = std::mem::replace(&mut plan.run_dir, folder.clone());
    each_path(&mut plan.run, |path| {
        if let Ok(rest) = path.strip_prefix(&old) {
            *path = folder.join(rest);
        }
    });
}

/// Makes every path of the run absolute.
pub(crate) fn absolute_paths(run: &mut Run, cwd: &Path) {
    each_path(run, |path| *path = absolute(cwd, path));
}

/// Replaces a leading `~` in the run's paths with `home`.
///
/// # Errors
/// A path that begins with `~`, if `home` is `None`.
pub(crate) fn expand_home(run: &mut Run, home: Option<&Path>) -> Result<(), PathBuf> {
    let mut missing_home = None;
    each_path(run, |path| {
        let Ok(rest) = path.strip_prefix("~") else { return };
        match home {
            Some(home) => *path = home.join(rest),
            None => missing_home = Some(path.clone()),
        }
    });
    missing_home.map_or(Ok(()), Err)
}

/// Calls `change` with every path of the run. The `builtin:` names of tokenizers and the addresses of models (`nemo://`,
/// `hf://`) are not paths.
fn each_path(run: &mut Run, mut change: impl FnMut(&mut PathBuf)) {
    let mut in_place = |path: &mut PathBuf| change(path);
    run.dir.iter_mut().for_each(&mut in_place);
    let finetune = &mut run.finetune;
    finetune.log.log_dir.iter_mut().for_each(&mut in_place);
    let resume = &mut finetune.resume;
    let checkpoints = [
        &mut resume.resume_from_path,
        &mut resume.resume_from_directory,
        &mut resume.adapter_path,
    ];
    checkpoints.into_iter().flatten().for_each(&mut in_place);
    let unless = |is_name: fn(&str) -> bool, text: &mut String, in_place: &mut dyn FnMut(&mut PathBuf)| {
        if !is_name(text) {
            let mut path = PathBuf::from(&*text);
            in_place(&mut path);
            *text = path.to_string_lossy().into_owned();
        }
    };
    if let Some(restore) = &mut finetune.resume.restore_config {
        unless(is_model_address, &mut restore.path, &mut in_place);
    }
    let addresses = finetune.model.pretrained_addresses_mut();
    addresses
        .into_iter()
        .for_each(|address| unless(is_model_address, address, &mut in_place));
    match &mut finetune.data {
        // Only the rank program knows which arguments of a custom type are paths.
        Data::Mock(_) | Data::Custom(_) => {}
        Data::Preloaded(data) => {
            data.paths.iter_mut().chain(&mut data.val_paths).for_each(&mut in_place);
            data.data_config.image_folder.iter_mut().for_each(&mut in_place);
            data.skip_list.iter_mut().chain(&mut data.packed_set).for_each(&mut in_place);
        }
        Data::Energon(data) => {
            in_place(&mut data.path);
            data.skip_list.iter_mut().chain(&mut data.packed_set).for_each(&mut in_place);
        }
    }
    if let Some((tokenizer, image_processor)) = finetune.data.tools_mut() {
        let processor = image_processor.iter_mut();
        let is_path = |path: &&mut PathBuf| !path.to_str().is_some_and(is_model_address);
        processor.filter(is_path).for_each(&mut in_place);
        if let Some(tokenizer) = tokenizer {
            unless(
                |text| text.starts_with("builtin:") || is_model_address(text),
                tokenizer,
                &mut in_place,
            );
        }
    }
}

/// Resolves `path` against `cwd` and removes `.` components. `..` stays: after a symbolic link it is not the lexical parent.
fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}
