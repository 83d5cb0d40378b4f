//! Which tasks may start: pure, from the states of all.

use neva_schemas::{Experiment, When};

use super::report::{TaskReport, TaskState};

/// The edges and groups of an experiment, by the numbers of its tasks.
#[derive(Debug)]
pub(super) struct Gates {
    names: Vec<String>,
    parents: Vec<Vec<(usize, When)>>,
    /// The other members of a task's group.
    mates: Vec<Vec<usize>>,
}

/// What a task's gate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gate {
    /// It may start.
    Open,
    /// It must wait.
    Shut,
    /// It will never start; a sentence says why.
    Never(String),
}

impl Gates {
    pub(super) fn of(experiment: &Experiment) -> Self {
        let number = |name: &str| experiment.tasks.get_index_of(name);
        let parents = experiment.tasks.keys().map(|task| {
            let parents = experiment.parents(task).into_iter();
            parents.filter_map(|(name, when)| Some((number(name)?, when))).collect()
        });
        let mut mates = vec![Vec::new(); experiment.tasks.len()];
        for members in experiment.groups.values() {
            let members: Vec<_> = members.iter().filter_map(|name| number(name)).collect();
            for member in &members {
                mates[*member] = members.iter().copied().filter(|mate| mate != member).collect();
            }
        }
        Self {
            names: experiment.tasks.keys().cloned().collect(),
            parents: parents.collect(),
            mates,
        }
    }

    /// The gate of `task`, which is pending. A task of a group waits for what its whole group waits for.
    pub(super) fn gate(&self, task: usize, tasks: &[TaskReport]) -> Gate {
        let own = self.own(task, tasks);
        let mates = self.mates[task].iter().map(|mate| match &tasks[*mate].state {
            TaskState::Pending => self.own(*mate, tasks),
            // A mate that was kept from an earlier launch, or one that started just now.
            TaskState::Running | TaskState::Succeeded => Gate::Open,
            state => Gate::Never(format!("`{}` of its group {}", self.names[*mate], participle(state))),
        });
        mates.fold(own, |worst, gate| match (worst, gate) {
            (Gate::Never(reason), _) | (_, Gate::Never(reason)) => Gate::Never(reason),
            (Gate::Shut, _) | (_, Gate::Shut) => Gate::Shut,
            (Gate::Open, Gate::Open) => Gate::Open,
        })
    }

    /// The others of `task`'s group.
    pub(super) fn mates(&self, task: usize) -> &[usize] {
        &self.mates[task]
    }

    fn own(&self, task: usize, tasks: &[TaskReport]) -> Gate {
        let mut gate = Gate::Open;
        for (parent, when) in &self.parents[task] {
            let state = &tasks[*parent].state;
            let passes = match when {
                When::AfterOk => *state == TaskState::Succeeded,
                When::AfterAny => state.is_end(),
                When::AfterNotOk => state.is_end() && *state != TaskState::Succeeded,
            };
            if !state.is_end() {
                gate = Gate::Shut;
            } else if !passes {
                return Gate::Never(format!("`{}` {}", self.names[*parent], participle(state)));
            }
        }
        gate
    }
}

/// How a task ended, behind its name.
pub(super) fn participle(state: &TaskState) -> &'static str {
    match state {
        TaskState::Skipped(_) => "was skipped",
        TaskState::Cancelled => "was cancelled",
        state => state.name(),
    }
}
