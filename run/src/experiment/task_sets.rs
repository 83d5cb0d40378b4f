//! Tasks that become one job: the tasks of a group, and like tasks that may start at the same time. Pure.

use neva_executors::TaskSetKind;
use neva_schemas::{Accelerator, ExecutorConfig, ExperimentConfig, Task, TaskSpec, When};

use crate::error::RunError;

/// The sets of an experiment's tasks, by the numbers of the tasks.
#[derive(Debug, Default)]
pub(super) struct TaskSets {
    sets: Vec<Members>,
    /// The set of each task.
    of: Vec<Option<usize>>,
}

/// The tasks of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) kind: TaskSetKind,
    /// In order.
    pub(super) tasks: Vec<usize>,
}

/// What tasks of an array have in common.
#[derive(PartialEq)]
struct Likeness<'a> {
    executor: &'a ExecutorConfig,
    program: Program<'a>,
    parents: Vec<(&'a str, When)>,
}

#[derive(PartialEq)]
enum Program<'a> {
    Ranks(u32, u32, Accelerator),
    Script(&'a str, &'a [String]),
}

impl TaskSets {
    /// Returns the sets of `experiment`; `executor` is the default of its tasks.
    pub(super) fn new(experiment: &ExperimentConfig, executor: &ExecutorConfig) -> Self {
        let config = |task: usize| experiment.tasks[task].executor.as_ref().unwrap_or(executor);
        let mut sets = Self {
            sets: Vec::new(),
            of: vec![None; experiment.tasks.len()],
        };
        let mut in_group = vec![false; experiment.tasks.len()];
        for members in experiment.groups.values() {
            let mut tasks: Vec<_> = members.iter().filter_map(|name| experiment.tasks.get_index_of(name)).collect();
            tasks.sort_unstable();
            tasks.iter().for_each(|task| in_group[*task] = true);
            if tasks.len() > 1 && tasks.iter().all(|task| config(tasks[0]).can_share_job(config(*task))) {
                sets.add(TaskSetKind::Group, tasks);
            }
        }
        let mut arrays: Vec<(Likeness<'_>, Vec<usize>)> = Vec::new();
        for (task, (name, entry)) in experiment.tasks.iter().enumerate() {
            let config = config(task);
            let Some(program) = program(entry, config).filter(|_| !in_group[task]) else {
                continue;
            };
            let likeness = Likeness {
                executor: config,
                program,
                parents: experiment.parents(name),
            };
            let most = max_tasks(config);
            // The earlier arrays of like tasks are full.
            let known = arrays.iter_mut().rev().find(|(known, _)| *known == likeness);
            let known = known.filter(|(_, tasks)| tasks.len() < most);
            match known {
                Some((_, tasks)) => tasks.push(task),
                None => arrays.push((likeness, vec![task])),
            }
        }
        for (likeness, tasks) in arrays {
            if tasks.len() > 1 {
                let cap = [cap(likeness.executor), experiment.max_parallel].into_iter().flatten().min();
                sets.add(TaskSetKind::Array { cap }, tasks);
            }
        }
        sets
    }

    /// As [`new`](Self::new), for an experiment that was not checked yet.
    ///
    /// # Errors
    /// A group shall be a heterogeneous job, but its tasks cannot share a job.
    pub(super) fn checked(experiment: &ExperimentConfig, executor: &ExecutorConfig) -> Result<Self, RunError> {
        let sets = Self::new(experiment, executor);
        for (name, members) in &experiment.groups {
            let tasks = members.iter().filter_map(|member| experiment.tasks.get_full(member));
            for (index, member, task) in tasks {
                let config = task.executor.as_ref().unwrap_or(executor);
                let is_wanted = matches!(config, ExecutorConfig::Slurm(slurm) if slurm.heterogeneous);
                if is_wanted && sets.of(index).is_none() {
                    return Err(RunError::Argument(format!(
                        "the executor of `{member}` is `heterogeneous`, but the tasks of the group `{name}` cannot be one job: give the \
                         group a second task, and all its executors the same tunnel, packager, `setup_lines`, `modules`, `libtorch`, \
                         `env_from`, `retries`, `max_requeues`, `slurm_version`, `array` and dependencies"
                    )));
                }
            }
        }
        Ok(sets)
    }

    /// Returns the set of a task.
    pub(super) fn of(&self, task: usize) -> Option<&Members> {
        Some(&self.sets[self.of[task]?])
    }

    /// Returns all sets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Members> {
        self.sets.iter()
    }

    fn add(&mut self, kind: TaskSetKind, tasks: Vec<usize>) {
        for task in &tasks {
            self.of[*task] = Some(self.sets.len());
        }
        self.sets.push(Members { kind, tasks });
    }
}

/// Returns what a task runs, as far as it matters to the script of an array; `None` for a task that cannot be in one.
fn program<'a>(task: &'a Task, executor: &ExecutorConfig) -> Option<Program<'a>> {
    let ExecutorConfig::Slurm(slurm) = executor else { return None };
    match &task.task {
        TaskSpec::Finetune(run) => {
            let trainer = &run.finetune.trainer;
            Some(Program::Ranks(trainer.num_nodes, trainer.devices, trainer.accelerator))
        }
        // The user's own array is a job that the script's tasks share.
        TaskSpec::Script(script) if slurm.array.is_none() || slurm.array_cap().is_some() => {
            Some(Program::Script(&script.entrypoint, &script.args))
        }
        _ => None,
    }
}

/// Returns the most tasks of an array.
fn max_tasks(executor: &ExecutorConfig) -> usize {
    match executor {
        ExecutorConfig::Slurm(slurm) => slurm.max_array_tasks(),
        _ => 1,
    }
}

fn cap(executor: &ExecutorConfig) -> Option<u32> {
    match executor {
        ExecutorConfig::Slurm(slurm) => slurm.array_cap(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use neva_schemas::{Dependency, Script, SlurmExecutorConfig};

    use super::*;

    fn slurm(change: impl Fn(&mut SlurmExecutorConfig)) -> ExecutorConfig {
        let mut config = SlurmExecutorConfig::default();
        change(&mut config);
        ExecutorConfig::Slurm(Box::new(config))
    }

    fn script(parents: &[&str]) -> Task {
        Task {
            depends_on: parents.iter().map(|parent| Dependency::when(When::AfterOk, *parent)).collect(),
            ..Task::new(Script::inline("true"))
        }
    }

    fn sets(experiment: &ExperimentConfig, executor: &ExecutorConfig) -> Vec<(TaskSetKind, Vec<usize>)> {
        let sets = TaskSets::new(experiment, executor);
        sets.iter().map(|set| (set.kind, set.tasks.clone())).collect()
    }

    #[test]
    fn like_tasks_are_an_array_and_groups_share_a_job() {
        let mut experiment = ExperimentConfig::default();
        for (name, parents) in [
            ("a", &[][..]),
            ("b", &[]),
            ("c", &["a", "b"]),
            ("d", &["a", "b"]),
            ("e", &["c"]),
            ("f", &[]),
            ("g", &[]),
        ] {
            experiment.tasks.insert(name.to_owned(), script(parents));
        }
        experiment.groups.insert("pair".into(), vec!["f".into(), "g".into()]);
        let array = |cap, tasks: &[usize]| (TaskSetKind::Array { cap }, tasks.to_vec());
        let group = (TaskSetKind::Group, vec![5, 6]);
        let expected = [group.clone(), array(None, &[0, 1]), array(None, &[2, 3])];
        assert_eq!(sets(&experiment, &slurm(|_| {})), expected);
        assert_eq!(sets(&experiment, &ExecutorConfig::default()), []);
        // Scripts of the user's own array.
        assert_eq!(sets(&experiment, &slurm(|config| config.array = Some("0-3".into()))), [group]);
        experiment.max_parallel = Some(3);
        let capped = slurm(|config| config.array = Some("%5".into()));
        assert_eq!(sets(&experiment, &slurm(|_| {}))[1], array(Some(3), &[0, 1]));
        assert_eq!(sets(&experiment, &capped)[1], array(Some(3), &[0, 1]));
        experiment.max_parallel = None;
        // Several arrays where the cluster's are small.
        let small = slurm(|config| config.max_array_size = Some(2));
        let mut sweep = ExperimentConfig::default();
        sweep.tasks.extend((0..5).map(|number| (number.to_string(), script(&[]))));
        assert_eq!(sets(&sweep, &small), [array(None, &[0, 1]), array(None, &[2, 3])]);
        let parts = slurm(|config| config.heterogeneous = true);
        assert!(TaskSets::checked(&experiment, &parts).is_ok());
        experiment.tasks[6].executor = Some(slurm(|config| config.retries = 1));
        let error = TaskSets::checked(&experiment, &parts).unwrap_err();
        assert!(error.to_string().contains("`pair` cannot be one job"), "{error}");
        // Another program, other resources, another way to the cluster.
        let TaskSpec::Script(own) = &mut experiment.tasks[0].task else {
            unreachable!()
        };
        own.entrypoint = "python3".into();
        experiment.tasks[3].executor = Some(slurm(|config| config.mem = Some("1G".into())));
        experiment.tasks[6].executor = Some(slurm(|config| config.setup_lines = Some("true".into())));
        assert_eq!(sets(&experiment, &slurm(|_| {})), []);
    }
}
