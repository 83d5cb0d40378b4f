//! Many tasks as one array: one script, a list of the tasks' folders, and a plan in each of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use neva_schemas::{ScriptPlan, SlurmExecutorConfig};

use super::{
    BATCH_FILE,
    batch::{again, forward_signal, head, with_functions},
    directives::{Directives, submit_argv},
    environment::{self, exports},
    shape::Shape,
    step::Step,
    task_list::{TASKS_FILE, task_lines},
    text::{job_folder, quoted, refused},
    work::{COPY_CODE, Work, has_code},
};
use crate::{
    error::ExecutorError,
    submission::{BatchScript, BatchTask, JobKind, Payload, Submission},
};

/// File in a task's folder with the variables in which the tasks differ.
const VARIABLES_FILE: &str = "variables.sh";

/// Most threads that render plans.
const THREADS: usize = 4;
/// Fewest tasks for a thread of their own.
const LEAST_TASKS: usize = 100;

const START: &str = include_str!("bash/start.sh");

/// Renders `tasks` as one array in the folder `dir`: task N of the array is `tasks[N]`, in its own folder. At most `cap` tasks
/// run at the same time.
///
/// # Errors
/// There are no tasks; they need different resources or programs; a task does not fit the executor's settings.
pub fn render_array(
    config: &SlurmExecutorConfig,
    name: &str,
    dir: &Path,
    tasks: &[Work<'_>],
    cap: Option<u32>,
    rank_program: &Path,
) -> Result<Submission, ExecutorError> {
    let timeout = |work: &&Work<'_>| match work {
        Work::Ranks(plan) => plan.run.finetune.trainer.timeout_s,
        Work::Script(_) => 0,
    };
    let Some(longest) = tasks.iter().max_by_key(timeout).copied() else {
        return Err(refused("the array has no tasks", "add a point to the sweep"));
    };
    let shape = Shape::new(config, longest)?;
    for work in tasks {
        if Shape::new(config, *work)? != shape || !runs_like(*work, longest) {
            let message = format!(
                "{} needs other nodes, ranks or GPUs than {}, or another program, but all tasks of an array have the same",
                work.dir().display(),
                longest.dir().display()
            );
            return Err(refused(&message, "split the sweep"));
        }
    }
    let root = job_folder(dir)?;
    let mut directives = Directives::new(config, name, shape, &dir.join("logs/slurm_%a.log"))?;
    let cap = cap.map(|cap| format!("%{cap}")).unwrap_or_default();
    directives.set("array", format!("0-{}{cap}", tasks.len() - 1));
    let argv = submit_argv(config, &dir.join(BATCH_FILE))?;

    let (shared, differs) = shared_variables(tasks);
    let mut files = task_files(dir, tasks, differs.then_some(&shared))?;
    let batch_task = |(number, work): (usize, &Work<'_>)| BatchTask {
        dir: work.dir().to_owned(),
        kind: work.kind(),
        suffix: format!("_{number}"),
    };
    let batch_tasks: Vec<_> = tasks.iter().enumerate().map(batch_task).collect();
    files.insert(TASKS_FILE.into(), task_lines(tasks, &batch_tasks)?);

    let mut text = head(name, &argv, &directives.lines());
    let _ = write!(text, "\nroot={}\n{LOOK_UP}\n{START}{CHECK}", quoted(&root));
    text += &environment::set_up(config, &shared);
    if differs {
        let _ = write!(text, "# shellcheck source=/dev/null\n. \"$dir/{VARIABLES_FILE}\"\n");
    }
    text += &with_functions(&main(config, longest, shape, rank_program)?);
    files.insert(BATCH_FILE.into(), text);
    Ok(Submission {
        dir: dir.to_owned(),
        files,
        payload: Payload::BatchScript(BatchScript {
            batch_script: BATCH_FILE.into(),
            submit_argv: argv,
            tasks: batch_tasks,
        }),
        kind: longest.kind(),
    })
}

const LOOK_UP: &str = r#"# Line N holds the steps, the suffix, the kind and the folder of task N - 1.
read -r steps _ _ dir <<<"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$root/tasks.txt")"
"#;

const CHECK: &str = r#"
[ -n "$dir" ] || fail 3 "cannot read task $SLURM_ARRAY_TASK_ID from $root/tasks.txt on $(hostname)"
if [ "$steps" = - ]; then
    steps=''
fi
"#;

/// Returns the files of the tasks' folders, with the variables that are not `shared`. Plans of thousands of tasks are rendered on
/// several threads.
fn task_files(
    dir: &Path,
    tasks: &[Work<'_>],
    shared: Option<&BTreeMap<String, String>>,
) -> Result<BTreeMap<PathBuf, String>, ExecutorError> {
    let files = |tasks: &[Work<'_>]| -> Result<Vec<(PathBuf, String)>, ExecutorError> {
        let mut files = Vec::new();
        for work in tasks {
            let folder = work.dir().strip_prefix(dir).unwrap_or(work.dir());
            let (file, text) = work.file()?;
            files.push((folder.join(file), text));
            if let Some(shared) = shared {
                let own = work.env().iter().filter(|(name, _)| !shared.contains_key(*name));
                let own = own.map(|(name, value)| (name.clone(), value.clone())).collect();
                files.push((folder.join(VARIABLES_FILE), exports(&own)));
            }
        }
        Ok(files)
    };
    let each = tasks.len().div_ceil(THREADS).max(LEAST_TASKS);
    let files = &files;
    let rendered: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = tasks.chunks(each).map(|tasks| scope.spawn(move || files(tasks))).collect();
        let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = BTreeMap::new();
    for files in rendered {
        all.extend(files?);
    }
    Ok(all)
}

/// Returns true if both tasks start the same program: what the script itself names.
fn runs_like(one: Work<'_>, other: Work<'_>) -> bool {
    let program = |script: &ScriptPlan| (script.entrypoint.clone(), script.args.clone(), script.working_directory.clone());
    match (one, other) {
        (Work::Ranks(_), Work::Ranks(_)) => true,
        (Work::Script(one), Work::Script(other)) => program(one) == program(other),
        _ => false,
    }
}

/// Returns the variables that all tasks have alike, and true if a task has others.
fn shared_variables(tasks: &[Work<'_>]) -> (BTreeMap<String, String>, bool) {
    let mut shared = tasks.first().map(|work| work.env().clone()).unwrap_or_default();
    for work in tasks {
        shared.retain(|name, value| work.env().get(name) == Some(value));
    }
    let differs = tasks.iter().any(|work| work.env().len() > shared.len());
    (shared, differs)
}

fn main(config: &SlurmExecutorConfig, work: Work<'_>, shape: Shape, rank_program: &Path) -> Result<String, ExecutorError> {
    let step = Step {
        config,
        work,
        shape,
        rank_program,
        component: None,
        shares_nodes: false,
    };
    let (before, command) = step.render()?;
    let is_ranks = work.kind() == JobKind::Ranks;
    let mut text =
        "\nset_up \"$dir\"\n# The output of each task stands in its own folder.\nexec >>\"$dir/logs/slurm.log\" 2>&1\n".to_owned();
    if has_code(config) {
        text += COPY_CODE;
    }
    let _ = write!(
        text,
        "cd {} || fail 3 \"cannot change to the working directory\"\n\
         records=$(records_length \"$dir\")\n\
         echo \"neva-run: start $((restart + 1)) of job $job, failures $records\" >&2\n\
         if is_cancelled; then\n    exit 1\nfi\n",
        work.working_directory(config)?
    );
    text += &forward_signal(config);
    let seconds = config.progress_interval_s;
    if is_ranks && seconds > 0 {
        let _ = write!(
            text,
            "\nshow_progress \"$dir\" \"$steps\" {seconds} </dev/null >/dev/null 2>&1 &\nhelpers=\"$helpers $!\"\n"
        );
    }
    let _ = write!(text, "\n{before}{command} &\nwait_for $!\ncode=$?\n");
    if is_ranks {
        text += "code=$(exit_code \"$dir\" \"$records\" \"$code\")\n";
    }
    let _ = write!(
        text,
        "if [ \"$terminated\" -eq 1 ] && [ \"$code\" -eq 0 ]; then\n    code=143\nfi\n\
         echo \"neva-run: exit code $code of job $job\" >&2\n\
         if [ \"$code\" -eq 0 ] || [ \"$terminated\" -eq 1 ] || is_cancelled; then\n    exit \"$code\"\nfi\n{}exit \"$code\"\n",
        again(config, is_ranks)
    );
    Ok(text)
}
