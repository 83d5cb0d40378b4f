//! An experiment: tasks, and what must have ended before each.

use crate::task::{Dependency, Task, When};
use crate::validate::{Problem, Validate};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks that run at the same time where nobody says how many.
pub const MAX_PARALLEL: u32 = 64;

/// Longest name of a task or a group, in bytes: it names a folder.
const LONGEST_NAME: usize = 128;

/// Longest name of an experiment, in bytes: a folder may be named by it, a date, and a task.
const LONGEST_EXPERIMENT: usize = 90;

/// Tasks and their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Experiment {
    /// Name of the experiment.
    pub name: String,
    /// Tasks by name.
    pub tasks: IndexMap<String, Task>,
    /// Tasks that start together, by the name of their group. Where one of them fails, the others are ended; one
    /// that succeeds leaves them alone.
    pub groups: IndexMap<String, Vec<String>>,
    /// One task at a time, in the order in which they are written: each depends on the one before.
    pub sequential: bool,
    /// Most tasks that run at the same time; a group starts as a whole.
    pub max_parallel: u32,
}

impl Default for Experiment {
    fn default() -> Self {
        Self {
            name: "experiment".into(),
            tasks: IndexMap::new(),
            groups: IndexMap::new(),
            sequential: false,
            max_parallel: MAX_PARALLEL,
        }
    }
}

impl Experiment {
    /// The tasks that `task` waits for, by name and condition: groups are their members, and where the experiment
    /// is sequential the task before is among them. Names that are not there are left out.
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

    /// The group that `task` belongs to.
    pub fn group_of(&self, task: &str) -> Option<&str> {
        let mut groups = self.groups.iter();
        groups
            .find(|(_, members)| members.iter().any(|member| member == task))
            .map(|(name, _)| name.as_str())
    }

    /// Tasks that wait for each other, in the order of the waiting; none where there is no cycle.
    fn cycle(&self) -> Vec<&str> {
        let mut done = BTreeSet::new();
        for start in self.tasks.keys() {
            // An explicit stack: a chain of tasks may be longer than that of the program.
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

    /// Parents of `task` and, as a group starts as a whole, those of its group.
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
            let place = under(path, &format!("groups.{}", quoted(group)));
            problems.extend(bad_name(group, LONGEST_NAME).map(|message| Problem::error(&place, message)));
            if self.tasks.contains_key(group) {
                problems.push(Problem::error(&place, format!("`{group}` is a task, too")).help("give the group another name"));
            }
            if self.sequential && members.len() > 1 {
                problems.push(
                    Problem::error(
                        &place,
                        "a group starts together, and a sequential experiment starts one task at a time",
                    )
                    .help("remove `sequential` or the group"),
                );
            }
            for (index, member) in members.iter().enumerate() {
                let place = format!("{place}[{index}]");
                if !known.contains(member) {
                    problems.push(unknown(place, member, &known));
                } else if let Some(other) = owner.insert(member, group) {
                    problems.push(Problem::error(place, format!("`{member}` is in the group `{other}` already")));
                }
            }
        }
    }
}

impl Validate for Experiment {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        problems.extend(bad_name(&self.name, LONGEST_EXPERIMENT).map(|message| Problem::error(under(path, "name"), message)));
        if self.tasks.is_empty() {
            problems.push(Problem::error(under(path, "tasks"), "the experiment has no tasks"));
        }
        if self.max_parallel == 0 {
            problems.push(Problem::error(
                under(path, "max_parallel"),
                "`max_parallel` is 0, it must be at least 1",
            ));
        }
        for (name, task) in &self.tasks {
            let place = task_path(path, name);
            problems.extend(bad_name(name, LONGEST_NAME).map(|message| Problem::error(&place, message)));
            task.validate(&place, problems);
        }
        self.validate_groups(path, problems);
        self.validate_edges(path, problems);
    }
}

/// Why `name` cannot be the name of a folder and the end of an edge.
fn bad_name(name: &str, longest: usize) -> Option<String> {
    let odd = |c: char| !(c.is_alphanumeric() || "-_.=+@,".contains(c));
    if name.is_empty() {
        Some("the name is empty".to_owned())
    } else if name.len() > longest {
        Some(format!("the name is longer than {longest} bytes"))
    } else if name.starts_with(['.', '-']) {
        Some(format!("the name {name:?} names a folder, and may not begin with `.` or `-`"))
    } else {
        let odd = name.chars().find(|c| odd(*c))?;
        Some(format!(
            "the name {name:?} names a folder, and may not hold {odd:?}: use letters, digits and - _ . = + @ ,"
        ))
    }
}

fn unknown(place: String, name: &str, known: &BTreeSet<&String>) -> Problem {
    let names: Vec<_> = known.iter().take(12).map(|name| format!("`{name}`")).collect();
    Problem::error(place, format!("there is no task `{name}`")).help(format!("write one of {}", names.join(", ")))
}

fn under(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

fn task_path(path: &str, name: &str) -> String {
    under(path, &format!("tasks.{}", quoted(name)))
}

/// `name` as a part of a dotted path.
fn quoted(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c)) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
