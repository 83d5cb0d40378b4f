//! Many runs as one array: one script, a list of the tasks' folders, and a plan in each of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use neva_schemas::{LaunchPlan, SlurmArray, SlurmExecutorConfig};

use super::{
    BATCH_FILE,
    batch::{again, forward_signal, head, with_functions},
    directives::{Directives, submit_argv},
    environment::{self, exports},
    shape::Shape,
    step::Step,
    text::{job_folder, quoted, refused},
    work::{CODE, Work, has_code},
};
use crate::{
    error::ExecutorError,
    submission::{BatchScript, JobKind, Payload, Submission},
};

/// File with a line `STEPS FOLDER` for each task.
const TASKS_FILE: &str = "tasks.txt";
/// File in a task's folder with the variables in which the tasks differ.
const VARIABLES_FILE: &str = "variables.sh";

const START: &str = include_str!("bash/start.sh");

/// Renders `plans` as one array in the folder `dir`: task N of the array is `plans[N]`, in its own folder. The array's cap
/// is that of `config.array`.
///
/// # Errors
/// There are no plans; they need different resources; a plan does not fit the executor's settings.
pub fn render_array(
    config: &SlurmExecutorConfig,
    name: &str,
    dir: &Path,
    plans: &[LaunchPlan],
    rank_program: &Path,
) -> Result<Submission, ExecutorError> {
    let longest = plans.iter().max_by_key(|plan| plan.run.finetune.trainer.timeout_s);
    let Some(longest) = longest else {
        return Err(refused("the array has no tasks", "add a point to the sweep"));
    };
    let shape = Shape::new(config, Work::Ranks(longest))?;
    for plan in plans {
        if Shape::new(config, Work::Ranks(plan))? != shape {
            let message = format!(
                "{} needs other nodes, ranks or GPUs than {}, but all tasks of an array have the same",
                plan.run_dir.display(),
                longest.run_dir.display()
            );
            return Err(refused(&message, "split the sweep"));
        }
    }
    let root = job_folder(dir)?;
    let mut directives = Directives::new(config, name, shape, &dir.join("logs/slurm_%a.log"))?;
    let cap = config.array.as_deref().and_then(SlurmArray::parse).and_then(|array| array.cap);
    let cap = cap.map(|cap| format!("%{cap}")).unwrap_or_default();
    directives.set("array", format!("0-{}{cap}", plans.len() - 1));
    let argv = submit_argv(config, &dir.join(BATCH_FILE))?;

    let (shared, differs) = shared_variables(plans);
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut tasks = String::new();
    for plan in plans {
        let steps = plan.run.finetune.trainer.max_steps;
        let steps = steps.map_or_else(|| "-".to_owned(), |steps| steps.to_string());
        let _ = writeln!(tasks, "{steps} {}", job_folder(&plan.run_dir)?);
        let folder = plan.run_dir.strip_prefix(dir).unwrap_or(&plan.run_dir);
        let (file, text) = Work::Ranks(plan).file()?;
        files.insert(folder.join(file), text);
        if differs {
            let own = plan.env.iter().filter(|(name, _)| !shared.contains_key(*name));
            let own = own.map(|(name, value)| (name.clone(), value.clone())).collect();
            files.insert(folder.join(VARIABLES_FILE), exports(&own));
        }
    }

    let mut text = head(name, &argv, &directives.lines());
    let _ = write!(text, "\nroot={}\n{LOOK_UP}\n{START}{CHECK}", quoted(&root));
    text += &environment::set_up(config, &shared);
    if differs {
        let _ = write!(text, "# shellcheck source=/dev/null\n. \"$dir/{VARIABLES_FILE}\"\n");
    }
    text += &with_functions(&main(config, longest, shape, rank_program)?);
    files.insert(TASKS_FILE.into(), tasks);
    files.insert(BATCH_FILE.into(), text);
    Ok(Submission {
        dir: dir.to_owned(),
        files,
        payload: Payload::BatchScript(BatchScript {
            batch_script: BATCH_FILE.into(),
            submit_argv: argv,
        }),
        kind: JobKind::Ranks,
    })
}

const LOOK_UP: &str = r#"# Line N holds the steps and the folder of task N - 1.
read -r steps dir <<<"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$root/tasks.txt")"
"#;

const CHECK: &str = r#"
[ -n "$dir" ] || fail 3 "cannot read task $SLURM_ARRAY_TASK_ID from $root/tasks.txt on $(hostname)"
if [ "$steps" = - ]; then
    steps=''
fi
"#;

/// Returns the variables that all plans have alike, and true if a plan has others.
fn shared_variables(plans: &[LaunchPlan]) -> (BTreeMap<String, String>, bool) {
    let mut shared = plans.first().map(|plan| plan.env.clone()).unwrap_or_default();
    for plan in plans {
        shared.retain(|name, value| plan.env.get(name) == Some(value));
    }
    let differs = plans.iter().any(|plan| plan.env.len() > shared.len());
    (shared, differs)
}

fn main(config: &SlurmExecutorConfig, plan: &LaunchPlan, shape: Shape, rank_program: &Path) -> Result<String, ExecutorError> {
    let step = Step {
        config,
        work: Work::Ranks(plan),
        shape,
        rank_program,
        component: None,
        shares_nodes: false,
    };
    let (before, command) = step.render()?;
    let folder = if has_code(config) {
        format!("\"$root/{CODE}\"")
    } else {
        "\"$dir\"".to_owned()
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "\nset_up \"$dir\"\ncd {folder} || fail 3 \"cannot change to the working directory\"\n\
         records=$(records_length \"$dir\")\n\
         echo \"neva-run: start $((restart + 1)) of job $job, failures $records\" >&2\n\
         if is_cancelled; then\n    exit 1\nfi\n"
    );
    text += &forward_signal(config);
    let seconds = config.progress_interval_s;
    if seconds > 0 {
        let _ = write!(
            text,
            "\nshow_progress \"$dir\" \"$steps\" {seconds} </dev/null >/dev/null 2>&1 &\nhelpers=\"$helpers $!\"\n"
        );
    }
    let _ = write!(
        text,
        "\n{before}{command} &\nwait_for $!\ncode=$(exit_code \"$dir\" \"$records\" $?)\n\
         if [ \"$terminated\" -eq 1 ] && [ \"$code\" -eq 0 ]; then\n    code=143\nfi\n\
         echo \"neva-run: exit code $code of job $job\" >&2\n\
         if [ \"$code\" -eq 0 ] || [ \"$terminated\" -eq 1 ] || is_cancelled; then\n    exit \"$code\"\nfi\n{}exit \"$code\"\n",
        again(config, true)
    );
    Ok(text)
}
