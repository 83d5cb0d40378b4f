//! The script of a task.

use std::{fmt::Write as _, path::Path};

use neva_schemas::{LaunchPlan, MAX_REQUEUES, SlurmExecutorConfig};

use super::{
    BATCH_FILE,
    directives::{Directives, submit_argv},
    environment,
    shape::Shape,
    step::{self, Step},
    text::{job_folder, quoted, refused},
    work::Work,
};
use crate::{
    error::ExecutorError,
    submission::{BatchScript, Payload, Submission},
};

const START: &str = include_str!("bash/start.sh");
const WAIT: &str = include_str!("bash/wait.sh");
const REQUEUE: &str = include_str!("bash/requeue.sh");
const EXIT_CODE: &str = include_str!("bash/exit_code.sh");
const STOPPED: &str = include_str!("bash/stopped.sh");
const RANK: &str = include_str!("bash/rank.sh");
const PROGRESS: &str = include_str!("bash/progress.sh");

/// Output of the batch script in the job's folder.
pub(super) const BATCH_LOG: &str = "logs/slurm.log";

/// Renders the job of one task.
pub(super) fn render(config: &SlurmExecutorConfig, work: Work<'_>, rank_program: &Path) -> Result<Submission, ExecutorError> {
    // The tasks of a sweep or a group are rendered together.
    if let (Some(array), Work::Ranks(_)) = (&config.array, work) {
        return Err(refused(
            &format!("`executor.array` is {array:?}, but the tasks of an array would all train in the same folder"),
            "use a sweep, of which each point has its folder: it is one array, with `array: \"%2\"` or `--max-parallel 2` as its cap",
        ));
    }
    if let Some(cap) = config.array_cap() {
        return Err(refused(
            &format!("`executor.array` is only the cap \"%{cap}\", but {} is a single job", work.name()),
            &format!("write the range, too, as \"0-7%{cap}\", or remove `array`: a cap alone is for the array that a sweep is"),
        ));
    }
    if config.heterogeneous {
        return Err(refused(
            "`executor.heterogeneous` is set, but the components of a heterogeneous job are the tasks of a group",
            "put the task into a group with another one, or remove `heterogeneous`",
        ));
    }
    let shape = Shape::new(config, work)?;
    let dir = job_folder(work.dir())?;
    let mut directives = Directives::new(config, work.name(), shape, &work.dir().join(BATCH_LOG))?;
    if let Some(array) = &config.array {
        directives.set("array", array);
    }
    let argv = submit_argv(config, &work.dir().join(BATCH_FILE))?;
    let step = Step {
        config,
        work,
        shape,
        rank_program,
        component: None,
        shares_nodes: config.memory_measure,
    };
    let mut text = head(work.name(), &argv, &directives.lines());
    let _ = write!(text, "\ndir={}\n\n{}", quoted(&dir), START);
    text += &environment::set_up(config, work.env());
    text += &with_functions(&main(config, &step)?);

    let (file, content) = work.file()?;
    Ok(Submission {
        dir: work.dir().to_owned(),
        files: [(file.into(), content), (BATCH_FILE.into(), text)].into(),
        payload: Payload::BatchScript(BatchScript {
            batch_script: BATCH_FILE.into(),
            submit_argv: argv,
            tasks: Vec::new(),
        }),
        kind: work.kind(),
    })
}

/// Returns the beginning of a script, up to the options of sbatch.
pub(super) fn head(name: &str, argv: &[String], directives: &str) -> String {
    let argv: Vec<_> = argv.iter().map(|word| quoted(word)).collect();
    format!(
        "#!/bin/bash\n# shellcheck disable=SC2016,SC2329\n#\n# {name}\n# Rendered by neva-run {}. Submit with: {}\n\n{directives}",
        env!("CARGO_PKG_VERSION"),
        argv.join(" "),
    )
}

/// Returns `main` behind the functions that it uses.
pub(super) fn with_functions(main: &str) -> String {
    let functions = [
        ("wait_for ", WAIT),
        ("requeue ", REQUEUE),
        ("exit_code ", EXIT_CODE),
        ("stopped_on ", STOPPED),
        ("\"$rank\"", RANK),
        ("show_progress ", PROGRESS),
    ];
    let used = functions.iter().filter(|(name, _)| main.contains(name)).map(|(_, text)| *text);
    format!("\nset -u\n{}{main}", used.collect::<String>())
}

/// Returns the part of the script that runs the task.
fn main(config: &SlurmExecutorConfig, step: &Step<'_>) -> Result<String, ExecutorError> {
    let work = step.work;
    let folder = work.working_directory(config)?;
    let (before, command) = step.render()?;
    let mut text = format!("\nset_up \"$dir\"\ncd {folder} || fail 3 \"cannot change to the working directory\"\n");
    text += "records=$(records_length \"$dir\")\n";
    text += "echo \"neva-run: start $((restart + 1)) of job $job, failures $records\" >&2\n";
    text += "if is_cancelled; then\n    exit 1\nfi\n";
    text += &forward_signal(config);
    if let Some(recorder) = step::memory_recorder(config, step.shape) {
        let _ = write!(text, "\n{recorder} &\nhelpers=\"$helpers $!\"\n");
    }
    if let Work::Ranks(plan) = work {
        text += &progress(config, plan);
    }
    let _ = write!(text, "\n{before}{command} &\nwait_for $!\ncode=$?\n");
    text += &end(config, work);
    Ok(text)
}

/// Returns the lines that pass the signal before the time limit on to the ranks, if only the script receives it.
pub(super) fn forward_signal(config: &SlurmExecutorConfig) -> String {
    match config.stop_signal().filter(|stop| stop.to_script) {
        Some(stop) => {
            let name = stop.signal.name().trim_start_matches("SIG");
            format!("\n# Without `--batch`, scancel signals the steps only.\ntrap 'scancel --signal={name} \"$own\"' {name}\n")
        }
        None => String::new(),
    }
}

/// Returns the line that starts the display of progress.
pub(super) fn progress(config: &SlurmExecutorConfig, plan: &LaunchPlan) -> String {
    let seconds = config.progress_interval_s;
    if seconds == 0 {
        return String::new();
    }
    let steps = plan
        .run
        .finetune
        .trainer
        .max_steps
        .map(|steps| steps.to_string())
        .unwrap_or_default();
    format!("\nshow_progress \"$dir\" '{steps}' {seconds} </dev/null >/dev/null 2>&1 &\nhelpers=\"$helpers $!\"\n")
}

/// Returns the end of the script: the exit code, and whether the job starts again.
fn end(config: &SlurmExecutorConfig, work: Work<'_>) -> String {
    let mut text = String::new();
    let is_ranks = matches!(work, Work::Ranks(_));
    if is_ranks {
        text += "code=$(exit_code \"$dir\" \"$records\" \"$code\")\n";
    }
    // srun that was killed exits with 0.
    text += "if [ \"$terminated\" -eq 1 ] && [ \"$code\" -eq 0 ]; then\n    code=143\nfi\n";
    text += "echo \"neva-run: exit code $code of job $job\" >&2\n";
    text += "if [ \"$code\" -eq 0 ] || [ \"$terminated\" -eq 1 ] || is_cancelled; then\n    exit \"$code\"\nfi\n";
    text += &again(config, is_ranks);
    text += "exit \"$code\"\n";
    text
}

/// Returns the lines that start a job again which ended with `code`.
pub(super) fn again(config: &SlurmExecutorConfig, is_ranks: bool) -> String {
    let retries = config.retries;
    let retry = format!("requeue failed {retries} \"$code\"\n");
    if !is_ranks {
        return if retries == 0 { String::new() } else { retry };
    }
    let requeue = config.stop_signal().map(|stop| {
        let count = config.max_requeues.unwrap_or(MAX_REQUEUES);
        let name = stop.signal.name();
        format!("if stopped_on \"$dir\" {name}; then\n    requeue stopped {count} \"$code\"\n    exit \"$code\"\nfi\n")
    });
    let mut text = requeue.unwrap_or_default();
    if retries > 0 {
        text += "# Wrong input (2) and bugs (4) fail the same way again; a stopped run was asked to stop.\n";
        text += "if { [ \"$code\" -eq 1 ] || [ \"$code\" -eq 3 ]; } && ! stopped_on \"$dir\" '[^\"]*'; then\n    ";
        text += &retry;
        text += "fi\n";
    }
    text
}
