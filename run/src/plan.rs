//! Lowers a resolved run to the launch plan that ranks read.
//!
//! Pure: the working directory and the clock are arguments, so that the same inputs give the same bytes.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use neva_schemas::{Data, LaunchPlan, PLAN_FORMAT, Run};

/// Folder that holds all runs where nobody names another: NeMo's.
const DEFAULT_DIR: &str = "nemo_experiments";

/// The plan of a `run` that validated, started in the folder `cwd` (absolute) at local time `started`.
///
/// The run's folder is `<log_dir, else dir, else ./nemo_experiments>/<name>/<date>`, as NeMo's logger
/// names it. Every relative path of the run becomes absolute, because ranks may be started elsewhere.
pub fn lower(run: &Run, cwd: &Path, started: DateTime) -> LaunchPlan {
    let mut run = run.clone();
    let log = &mut run.finetune.log;
    let parent = log
        .log_dir
        .get_or_insert_with(|| run.dir.clone().unwrap_or_else(|| DEFAULT_DIR.into()));
    let run_dir = parent.join(&log.name).join(started.strftime("%Y-%m-%d_%H-%M-%S").to_string());
    let run_dir = absolute(cwd, &run_dir);
    absolute_paths(&mut run, cwd);
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

/// Makes every path of the run absolute. The two that are not always paths, tokenizer and restored
/// weights, keep their `builtin:` and `nemo://` names.
fn absolute_paths(run: &mut Run, cwd: &Path) {
    let in_place = |path: &mut PathBuf| *path = absolute(cwd, path);
    let unless = |scheme: &str, text: &mut String| {
        if !text.starts_with(scheme) {
            *text = absolute(cwd, Path::new(text)).to_string_lossy().into_owned();
        }
    };

    run.dir.iter_mut().for_each(in_place);
    let finetune = &mut run.finetune;
    finetune.log.log_dir.iter_mut().for_each(in_place);
    let resume = &mut finetune.resume;
    let checkpoints = [
        &mut resume.resume_from_path,
        &mut resume.resume_from_directory,
        &mut resume.adapter_path,
    ];
    checkpoints.into_iter().flatten().for_each(in_place);
    if let Some(restore) = &mut finetune.resume.restore_config {
        unless("nemo://", &mut restore.path);
    }
    match &mut finetune.data {
        // What is a path among the arguments of an own type, only the rank program knows.
        Data::Mock(_) | Data::Custom(_) => {}
        Data::Preloaded(data) => {
            data.paths.iter_mut().chain(&mut data.val_paths).for_each(in_place);
            data.data_config.image_folder.iter_mut().for_each(in_place);
            data.image_processor.iter_mut().for_each(in_place);
            if let Some(tokenizer) = &mut data.tokenizer {
                unless("builtin:", tokenizer);
            }
        }
    }
}

/// `path` from `cwd`, without the `.` parts. `..` stays: behind a link it is not the parent's name.
fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}
