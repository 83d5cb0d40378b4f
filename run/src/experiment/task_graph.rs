//! Dependencies and gangs of an experiment's tasks, and which tasks are ready: pure, from the states of all tasks.

use neva_schemas::{ExperimentConfig, When};

use super::report::{TaskReport, TaskState};

/// The edges and groups of an experiment, by the numbers of its tasks.
#[derive(Debug)]
pub(super) struct TaskGraph {
    names: Vec<String>,
    parents: Vec<Vec<(usize, When)>>,
    children: Vec<Vec<usize>>,
    /// The other members of each task's group.
    gangs: Vec<Vec<usize>>,
}

/// Readiness of a pending task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It may start.
    Ready,
    /// It must wait.
    Waiting,
    /// It will never start; the text says why.
    Never(String),
}

impl TaskGraph {
    pub(super) fn new(experiment: &ExperimentConfig) -> Self {
        let number = |name: &str| experiment.tasks.get_index_of(name);
        let parents = experiment.tasks.keys().map(|task| {
            let parents = experiment.parents(task).into_iter();
            parents.filter_map(|(name, when)| Some((number(name)?, when))).collect()
        });
        let parents: Vec<Vec<(usize, When)>> = parents.collect();
        let mut children = vec![Vec::new(); experiment.tasks.len()];
        for (task, parents) in parents.iter().enumerate() {
            for (parent, _) in parents {
                children[*parent].push(task);
            }
        }
        let mut gangs = vec![Vec::new(); experiment.tasks.len()];
        for members in experiment.groups.values() {
            let members: Vec<_> = members.iter().filter_map(|name| number(name)).collect();
            for member in &members {
                gangs[*member] = members.iter().copied().filter(|other| other != member).collect();
            }
        }
        Self {
            names: experiment.tasks.keys().cloned().collect(),
            parents,
            children,
            gangs,
        }
    }

    /// Returns the readiness of `task`, which is pending. A task of a group waits for the parents of the whole group.
    pub(super) fn readiness(&self, task: usize, tasks: &[TaskReport]) -> Readiness {
        let own = self.own_readiness(task, tasks);
        let others = self.gangs[task].iter().map(|other| match &tasks[*other].state {
            TaskState::Pending => self.own_readiness(*other, tasks),
            // It was kept from an earlier launch, or started just now.
            TaskState::Running | TaskState::Succeeded => Readiness::Ready,
            state => Readiness::Never(format!("`{}` of its group {}", self.names[*other], past_tense(state))),
        });
        others.fold(own, |worst, readiness| match (worst, readiness) {
            (Readiness::Never(reason), _) | (_, Readiness::Never(reason)) => Readiness::Never(reason),
            (Readiness::Waiting, _) | (_, Readiness::Waiting) => Readiness::Waiting,
            (Readiness::Ready, Readiness::Ready) => Readiness::Ready,
        })
    }

    /// Returns true if `task` or a member of its group depends on another task.
    pub(super) fn has_parents(&self, task: usize) -> bool {
        let mut members = self.gangs[task].iter().chain([&task]);
        members.any(|member| !self.parents[*member].is_empty())
    }

    /// Returns the parents of `task` that have not ended, each with how it has to end.
    pub(super) fn open_parents<'a>(&'a self, task: usize, tasks: &'a [TaskReport]) -> impl Iterator<Item = (usize, When)> + 'a {
        let parents = self.parents[task].iter().copied();
        parents.filter(|(parent, _)| !tasks[*parent].state.is_end())
    }

    /// Returns the other members of `task`'s group.
    pub(super) fn gang(&self, task: usize) -> &[usize] {
        &self.gangs[task]
    }

    /// Returns for each task whether it may run at the same time as `task`: it is neither an ancestor nor a descendant.
    pub(super) fn concurrent(&self, task: usize) -> Vec<bool> {
        let mut concurrent = vec![true; self.names.len()];
        concurrent[task] = false;
        let up = |task: usize| self.parents[task].iter().map(|(parent, _)| *parent).collect::<Vec<_>>();
        let down = |task: usize| self.children[task].clone();
        let directions: [&dyn Fn(usize) -> Vec<usize>; 2] = [&up, &down];
        for next in directions {
            let mut reached = next(task);
            while let Some(other) = reached.pop() {
                if std::mem::take(&mut concurrent[other]) {
                    reached.extend(next(other));
                }
            }
        }
        concurrent
    }

    fn own_readiness(&self, task: usize, tasks: &[TaskReport]) -> Readiness {
        let mut readiness = Readiness::Ready;
        for (parent, when) in &self.parents[task] {
            let state = &tasks[*parent].state;
            let passes = match when {
                When::AfterOk => *state == TaskState::Succeeded,
                When::AfterAny => state.is_end(),
                When::AfterNotOk => state.is_end() && *state != TaskState::Succeeded,
            };
            if !state.is_end() {
                readiness = Readiness::Waiting;
            } else if !passes {
                return Readiness::Never(format!("`{}` {}", self.names[*parent], past_tense(state)));
            }
        }
        readiness
    }
}

/// Returns how a task ended, to follow its name in a sentence.
pub(super) fn past_tense(state: &TaskState) -> &'static str {
    match state {
        TaskState::Skipped(_) => "was skipped",
        TaskState::Cancelled => "was cancelled",
        state => state.name(),
    }
}
