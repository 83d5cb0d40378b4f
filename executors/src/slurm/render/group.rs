//! Several tasks in one job: in one allocation, or as components of a heterogeneous job.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use neva_schemas::SlurmExecutorConfig;

use super::{
    BATCH_FILE,
    batch::{self, BATCH_LOG, forward_signal, head, with_functions},
    directives::{Directives, submit_argv},
    environment::{self, exports},
    shape::Shape,
    step::{Step, component_line},
    task_list::{TASKS_FILE, task_lines},
    text::{job_folder, quoted, refused},
    work::{COPY_CODE, Work, has_code},
};
use crate::{
    error::ExecutorError,
    submission::{BatchScript, BatchTask, JobKind, Payload, Submission},
};

const START: &str = include_str!("bash/start.sh");
const GROUP: &str = include_str!("bash/group.sh");

/// A task of a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupTask<'a> {
    /// Settings of its executor. Those of the first task hold for the job.
    pub config: &'a SlurmExecutorConfig,
    /// Its work, in its own folder.
    pub work: Work<'a>,
}

/// Renders `tasks` as one job with the folder `dir`. They share an allocation, or are the components of a heterogeneous job
/// if the first executor has `heterogeneous`, or if their executors ask for nodes of different kinds. If one fails, the others are
/// ended; if one succeeds, the others continue.
///
/// # Errors
/// There are no tasks; a task does not fit its executor's settings.
pub fn render_group(name: &str, dir: &Path, tasks: &[GroupTask<'_>], rank_program: &Path) -> Result<Submission, ExecutorError> {
    let Some(GroupTask { config, .. }) = tasks.first() else {
        return Err(refused("the group has no tasks", "add a task to the group"));
    };
    let group = Group {
        config,
        tasks,
        shapes: tasks
            .iter()
            .map(|task| Shape::new(task.config, task.work))
            .collect::<Result<_, _>>()?,
        components: components(tasks)?,
    };
    let root = job_folder(dir)?;
    let argv = submit_argv(config, &dir.join(BATCH_FILE))?;
    let mut text = head(name, &argv, &group.directives(name, dir)?);
    if tasks.iter().any(|task| has_code(task.config)) {
        let _ = write!(text, "\nroot={}", quoted(&root));
    }
    let _ = write!(text, "\ndir={}\n\n{START}", quoted(&root));
    text += &environment::set_up(config, &BTreeMap::new());
    text += &with_functions(&format!("{GROUP}{}", group.main(rank_program)?));

    let mut files: BTreeMap<PathBuf, String> = [(BATCH_FILE.into(), text)].into();
    for task in tasks {
        let folder = task.work.dir();
        let (file, content) = task.work.file()?;
        files.insert(folder.strip_prefix(dir).unwrap_or(folder).join(file), content);
    }
    let batch_task = |(number, task): (usize, &GroupTask<'_>)| BatchTask {
        dir: task.work.dir().to_owned(),
        kind: task.work.kind(),
        suffix: format!("+{number}"),
    };
    let batch_tasks: Vec<_> = tasks.iter().enumerate().map(batch_task).collect();
    let works: Vec<_> = tasks.iter().map(|task| task.work).collect();
    files.insert(TASKS_FILE.into(), task_lines(&works, &batch_tasks)?);
    Ok(Submission {
        dir: dir.to_owned(),
        files,
        payload: Payload::BatchScript(BatchScript {
            batch_script: BATCH_FILE.into(),
            submit_argv: argv,
            tasks: batch_tasks,
        }),
        kind: JobKind::Script,
    })
}

/// Returns the component of each task, `None` if the job is not heterogeneous.
fn components(group: &[GroupTask<'_>]) -> Result<Option<Vec<u32>>, ExecutorError> {
    let tasks = group.len();
    let Some(GroupTask { config, .. }) = group.first() else {
        return Ok(None);
    };
    let mut kinds = Vec::new();
    for task in group {
        kinds.push(node_kind(task.config)?);
    }
    if !config.heterogeneous && kinds.iter().all(|kind| *kind == kinds[0]) {
        return Ok(None);
    }
    let Some(indices) = &config.het_group_indices else {
        return Ok(Some((0..tasks as u32).collect()));
    };
    let count = indices.iter().max().map_or(0, |last| last + 1);
    let are_all_used = (0..count).all(|component| indices.contains(&component));
    if indices.len() != tasks || !are_all_used {
        return Err(refused(
            &format!("`executor.het_group_indices` is {indices:?}, but the group has {tasks} tasks"),
            "give a number for each task, from 0 on without gaps",
        ));
    }
    Ok(Some(indices.clone()))
}

/// Returns the options of sbatch that say what nodes a task needs, apart from their number, tasks and cores.
fn node_kind(config: &SlurmExecutorConfig) -> Result<String, ExecutorError> {
    let shape = Shape {
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: 0,
    };
    let config = SlurmExecutorConfig {
        cpus_per_task: None,
        ..config.clone()
    };
    let mut directives = Directives::new(&config, "", shape, Path::new(""))?;
    for option in ["job-name", "comment"] {
        directives.remove(option);
    }
    Ok(directives.lines())
}

struct Group<'a> {
    config: &'a SlurmExecutorConfig,
    tasks: &'a [GroupTask<'a>],
    shapes: Vec<Shape>,
    components: Option<Vec<u32>>,
}

impl Group<'_> {
    fn directives(&self, name: &str, dir: &Path) -> Result<String, ExecutorError> {
        let log = dir.join(BATCH_LOG);
        let Some(components) = &self.components else {
            return Ok(self.component(self.config, name, &log, |_| true)?.lines());
        };
        let count = components.iter().max().map_or(0, |last| last + 1);
        let mut text = String::new();
        for component in 0..count {
            let first = components.iter().position(|own| *own == component).unwrap_or_default();
            if component > 0 {
                text += component_line(self.config);
            }
            text += &self
                .component(self.tasks[first].config, name, &log, |task| components[task] == component)?
                .lines();
        }
        Ok(text)
    }

    /// Returns the options of an allocation that holds each of the chosen tasks.
    fn component(
        &self,
        config: &SlurmExecutorConfig,
        name: &str,
        log: &Path,
        chosen: impl Fn(usize) -> bool,
    ) -> Result<Directives, ExecutorError> {
        let cpus = self.tasks.iter().enumerate().filter(|(task, _)| chosen(*task));
        let cpus = cpus.filter_map(|(_, task)| task.config.cpus_per_task).max();
        let mut directives = Directives::new(config, name, self.largest(chosen), log)?;
        cpus.iter().for_each(|cpus| directives.set("cpus-per-task", cpus));
        Ok(directives)
    }

    /// Returns the shape that holds each of the chosen tasks.
    fn largest(&self, chosen: impl Fn(usize) -> bool) -> Shape {
        let shapes = || {
            self.shapes
                .iter()
                .enumerate()
                .filter(|(task, _)| chosen(*task))
                .map(|(_, shape)| shape)
        };
        let max = |value: fn(&Shape) -> u32| shapes().map(value).max().unwrap_or_default();
        Shape {
            nodes: max(|shape| shape.nodes),
            tasks_per_node: max(|shape| shape.tasks_per_node),
            gpus_per_node: max(|shape| shape.gpus_per_node),
        }
    }

    fn main(&self, rank_program: &Path) -> Result<String, ExecutorError> {
        let mut text = "\necho \"neva-run: start $((restart + 1)) of job $job, failures 0\" >&2\n".to_owned();
        text += "if is_cancelled; then\n    exit 1\nfi\n";
        text += &forward_signal(self.config);
        text += "\nfailed=''\ndirs=()\nrecords=()\npids=()\ncodes=()\n";
        for (number, task) in self.tasks.iter().enumerate() {
            if number > 0 && self.config.wait_time_for_group_job > 0 {
                let _ = writeln!(text, "sleep {}", self.config.wait_time_for_group_job);
            }
            text += &self.task(number, task, rank_program)?;
        }
        let seconds = match self.config.monitor_group_job {
            true => self.config.monitor_group_job_wait_time.to_string(),
            false => String::new(),
        };
        let _ = writeln!(text, "\nwait_for_tasks {} '{seconds}'", self.tasks.len());
        text += "if [ \"$terminated\" -eq 1 ] && [ \"$code\" -eq 0 ]; then\n    code=143\nfi\n";
        text += "echo \"neva-run: exit code $code of job $job${failed:+, first failure in $failed}\" >&2\n";
        text += "if [ \"$code\" -eq 0 ] || [ \"$terminated\" -eq 1 ] || is_cancelled; then\n    exit \"$code\"\nfi\n";
        let has_ranks = self.tasks.iter().any(|task| matches!(task.work, Work::Ranks(_)));
        text += &batch::again(self.config, has_ranks).replace("\"$dir\"", "\"$failed\"");
        text += "exit \"$code\"\n";
        Ok(text)
    }

    /// Returns the lines that start a task in a shell of its own.
    fn task(&self, number: usize, task: &GroupTask<'_>, rank_program: &Path) -> Result<String, ExecutorError> {
        let GroupTask { config, work } = *task;
        let step = Step {
            config,
            work,
            shape: self.shapes[number],
            rank_program,
            component: self.components.as_ref().map(|components| components[number]),
            shares_nodes: true,
        };
        let (before, command) = step.render()?;
        let dir = quoted(&job_folder(work.dir())?);
        let folder = work.working_directory(config)?;
        let records = match work {
            Work::Ranks(_) => "$(records_length \"${dirs[NUMBER]}\")".replace("NUMBER", &number.to_string()),
            Work::Script(_) => "''".to_owned(),
        };
        let mut text = format!(
            "\n# {}\ndirs[{number}]={dir}\nset_up_task {number}\nrecords[{number}]={records}\n",
            work.name()
        );
        let _ = write!(
            text,
            "if [ -z \"${{codes[{number}]:-}}\" ]; then\n(\ndir={dir}\nexec >>\"$dir/logs/slurm.log\" 2>&1\n\
             echo \"neva-run: start $((restart + 1)) of job $job, failures ${{records[{number}]:-0}}\"\n"
        );
        if has_code(config) {
            text += COPY_CODE;
        }
        let _ = writeln!(text, "cd {folder} || fail 3 \"cannot change to the working directory\"");
        text += &exports(work.env());
        let _ = write!(text, "{before}exec {command}\n) &\npids[{number}]=$!\nfi\n");
        if number == 0
            && let Work::Ranks(plan) = work
        {
            text += &batch::progress(config, plan).replace("\"$dir\"", "\"${dirs[0]}\"");
        }
        Ok(text)
    }
}
