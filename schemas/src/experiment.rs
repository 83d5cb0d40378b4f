//! Experiments: tasks and their dependencies.

use crate::name::{MAX_NAME_LENGTH, MAX_TASK_NAME_LENGTH, name_error};
use crate::task::{Dependency, Task, When};
use crate::validate::{Problem, Validate, field};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of concurrent tasks if `max_parallel` is not set.
pub const MAX_PARALLEL: u32 = 64;

/// An experiment: tasks and their dependencies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Experiment", deny_unknown_fields, default)]
pub struct ExperimentConfig {
    /// Name of the experiment.
    pub name: String,
    /// Tasks by name.
    pub tasks: IndexMap<String, Task>,
    /// Groups of tasks that start together, by name. If one task of a group fails, the others are cancelled; if one
    /// succeeds, the others continue.
    pub groups: IndexMap<String, Vec<String>>,
    /// Runs one task at a time, in the order of the file: each task depends on the one before.
    pub sequential: bool,
    /// Maximum number of concurrent tasks; a group starts as a whole. `null`: as many fine-tunes as this machine has
    /// cores or GPUs for, and at most 64 tasks. Fine-tunes never share a GPU, regardless of this value.
    pub max_parallel: Option<u32>,
}

impl Default for ExperimentConfig {
    fn default() -> Self {
        Self {
            name: "experiment".into(),
            tasks: IndexMap::new(),
            groups: IndexMap::new(),
            sequential: false,
            max_parallel: None,
        }
    }
}

impl ExperimentConfig {
    /// Returns the tasks that `task` waits for, with their conditions. Groups are replaced by their members; a sequential
    /// experiment adds the previous task. Unknown names are left out.
    pub fn parents(&self, task: &str) -> Vec<(&str, When)> {
        let Some((index, _, entry)) = self.tasks.get_full(task) else {
            return Vec::new();
        };
        let mut parents: Vec<(&str, When)> = Vec::new();
        for Dependency { task, when } in &entry.depends_on {
            match self.groups.get(task) {
                Some(members) => parents.extend(members.iter().map(|member| (member.as_str(), *when))),
                None => parents.push((task, *when)),
            }
        }
        parents.retain(|(name, _)| self.tasks.contains_key(*name));
        if let Some((before, _)) = index.checked_sub(1).and_then(|before| self.tasks.get_index(before))
            && self.sequential
            && !parents.iter().any(|(parent, _)| parent == before)
        {
            parents.push((before, When::AfterOk));
        }
        parents
    }

    /// Returns the group of `task`.
    pub fn group_of(&self, task: &str) -> Option<&str> {
        let mut groups = self.groups.iter();
        groups
            .find(|(_, members)| members.iter().any(|member| member == task))
            .map(|(name, _)| name.as_str())
    }

    /// Returns the tasks of a dependency cycle, in the order of waiting; empty if there is none.
    fn cycle(&self) -> Vec<&str> {
        let mut done = BTreeSet::new();
        for start in self.tasks.keys() {
            // An explicit stack, because a long chain of tasks would overflow the call stack.
            let mut path: Vec<(&str, Vec<&str>)> = vec![(start, self.waits_for(start))];
            while let Some((name, rest)) = path.last_mut() {
                let name: &str = name;
                match rest.pop() {
                    None => {
                        done.insert(name);
                        path.pop();
                    }
                    Some(parent) if done.contains(parent) => {}
                    Some(parent) => {
                        if let Some(at) = path.iter().position(|(name, _)| *name == parent) {
                            return path[at..].iter().map(|(name, _)| *name).collect();
                        }
                        path.push((parent, self.waits_for(parent)));
                    }
                }
            }
        }
        Vec::new()
    }

    /// Returns the parents of `task` and of its group, which starts as a whole.
    fn waits_for(&self, task: &str) -> Vec<&str> {
        let group = self.group_of(task).and_then(|group| self.groups.get(group));
        let members = group.into_iter().flatten().map(String::as_str).filter(|member| *member != task);
        let names = members
            .chain([task])
            .flat_map(|member| self.parents(member))
            .map(|(parent, _)| parent);
        names.collect()
    }

    fn validate_edges(&self, path: &str, problems: &mut Vec<Problem>) {
        let known: BTreeSet<&String> = self.tasks.keys().chain(self.groups.keys()).collect();
        let mut ends = true;
        for (name, task) in &self.tasks {
            for (index, edge) in task.depends_on.iter().enumerate() {
                let place = format!("{}.depends_on[{index}]", task_path(path, name));
                if edge.task == *name {
                    problems.push(Problem::error(place, format!("`{name}` cannot wait for itself")).help("remove it"));
                    ends = false;
                } else if !known.contains(&edge.task) {
                    problems.push(unknown(place, &edge.task, &known));
                }
            }
        }
        let cycle = if ends { self.cycle() } else { Vec::new() };
        if let [first, ..] = cycle.as_slice() {
            let names: Vec<_> = cycle.iter().chain([first]).map(|name| format!("`{name}`")).collect();
            let place = format!("{}.depends_on", task_path(path, first));
            problems.push(
                Problem::error(place, format!("these tasks wait for each other: {}", names.join(" for "))).help("remove one of the edges"),
            );
        }
    }

    fn validate_groups(&self, path: &str, problems: &mut Vec<Problem>) {
        let known: BTreeSet<&String> = self.tasks.keys().collect();
        let mut owner: BTreeMap<&str, &str> = BTreeMap::new();
        for (group, members) in &self.groups {
            let place = field(path, &format!("groups.{}", quoted(group)));
            problems.extend(name_error(group, MAX_TASK_NAME_LENGTH).map(|message| Problem::error(&place, message)));
            if self.tasks.contains_key(group) {
                problems.push(Problem::error(&place, format!("`{group}` is also the name of a task")).help("give the group another name"));
            }
            if self.sequential && members.len() > 1 {
                problems.push(
                    Problem::error(
                        &place,
                        "a group starts together, but a sequential experiment starts one task at a time",
                    )
                    .help("remove `sequential` or the group"),
                );
            }
            for (index, member) in members.iter().enumerate() {
                let place = format!("{place}[{index}]");
                if !known.contains(member) {
                    problems.push(unknown(place, member, &known));
                } else if let Some(other) = owner.insert(member, group) {
                    problems.push(Problem::error(place, format!("`{member}` is already in the group `{other}`")));
                }
            }
        }
    }
}

impl Validate for ExperimentConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        problems.extend(name_error(&self.name, MAX_NAME_LENGTH).map(|message| Problem::error(field(path, "name"), message)));
        if self.tasks.is_empty() {
            problems.push(Problem::error(field(path, "tasks"), "the experiment has no tasks"));
        }
        if self.max_parallel == Some(0) {
            problems.push(Problem::error(
                field(path, "max_parallel"),
                "`max_parallel` is 0, it must be at least 1",
            ));
        }
        for (name, task) in &self.tasks {
            let place = task_path(path, name);
            problems.extend(name_error(name, MAX_TASK_NAME_LENGTH).map(|message| Problem::error(&place, message)));
            task.validate(&place, problems);
        }
        self.validate_groups(path, problems);
        self.validate_edges(path, problems);
    }
}

fn unknown(place: String, name: &str, known: &BTreeSet<&String>) -> Problem {
    let names: Vec<_> = known.iter().take(12).map(|name| format!("`{name}`")).collect();
    Problem::error(place, format!("there is no task `{name}`")).help(format!("write one of {}", names.join(", ")))
}

fn task_path(path: &str, name: &str) -> String {
    field(path, &format!("tasks.{}", quoted(name)))
}

/// Quotes `name` for a dotted path.
fn quoted(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c)) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
