//! Scheduling: starts tasks that are ready, ends tasks that never will be, and cancels tasks.

use std::collections::{BTreeSet, VecDeque};

use neva_executors::TaskSetKind;
use neva_schemas::{RunReport, StopSignal};
use tokio::sync::watch;

use super::{
    super::{event::Change, report::TaskState, task_graph::Readiness, task_sets::Members},
    Runner,
};
use crate::{environment, job::StopRequests};

impl Runner {
    /// Starts every task that may start, and ends every task that never will, until nothing changes.
    pub(super) async fn schedule(&mut self) {
        let mut queue: VecDeque<usize> = (0..self.tasks.len()).collect();
        while let Some(index) = queue.pop_front() {
            if self.tasks[index].state != TaskState::Pending {
                continue;
            }
            if self.cancelled {
                self.end(index, TaskState::Cancelled, None);
                continue;
            }
            match self.graph.readiness(index, &self.tasks) {
                Readiness::Waiting => self.queue_task(index).await,
                Readiness::Never(reason) => {
                    self.end(index, TaskState::Skipped(reason), None);
                    // Tasks that are listed before this one may depend on it.
                    queue.extend(0..index);
                }
                // Its job was cancelled from outside.
                Readiness::Ready if self.undecided.contains(&index) => self.end(index, TaskState::Cancelled, None),
                Readiness::Ready => {
                    let gang = self.graph.gang(index).iter();
                    let gang = gang.filter(|other| self.tasks[**other].state == TaskState::Pending);
                    let members: Vec<_> = gang.copied().chain([index]).collect();
                    if !self.resources.fits(&members) {
                        continue;
                    }
                    if let Some(set) = self.joined_now(index, &members) {
                        if !self.start_set(set, Vec::new()).await {
                            queue.extend(0..self.tasks.len());
                        }
                        continue;
                    }
                    // If one member does not start, the rest of its group does not either.
                    for member in members {
                        if !self.start(member).await {
                            queue.extend(0..self.tasks.len());
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Submits a task that waits for others, if its executor can hold it back until they have ended: then the experiment goes
    /// on without this launcher. The launcher itself holds tasks back that `max_parallel` limits, and groups.
    async fn queue_task(&mut self, index: usize) {
        if self.record.experiment.max_parallel.is_some() || self.undecided.contains(&index) {
            return;
        }
        let waiting: Vec<_> = (0..self.tasks.len())
            .filter(|task| self.tasks[*task].state == TaskState::Pending)
            .collect();
        let set = self.joined(index, &waiting);
        let gang = self.graph.gang(index);
        // A group starts as a whole.
        if !gang.is_empty() && set.as_ref().is_none_or(|set| set.tasks.len() <= gang.len()) {
            return;
        }
        let config = |task: usize| {
            let task = &self.record.experiment.tasks[task];
            task.executor.as_ref().unwrap_or(&self.record.executor)
        };
        let mut after = Vec::new();
        let members = set.as_ref().map_or_else(|| vec![index], |set| set.tasks.clone());
        // All tasks of an array have the same parents.
        let of_all: BTreeSet<_> = match gang.is_empty() {
            true => self.graph.open_parents(index, &self.tasks).collect(),
            false => members
                .iter()
                .flat_map(|task| self.graph.open_parents(*task, &self.tasks))
                .collect(),
        };
        for (parent, when) in of_all {
            // Jobs of another cluster, or with other ways to it, cannot be named.
            let Some(job) = self.tasks[parent].job.clone().filter(|_| config(parent).same_queue(config(index))) else {
                return;
            };
            after.push((job, when));
        }
        let executor = self.lowering.executor(&self.record, &self.record.experiment.tasks[index]);
        if !executor.is_ok_and(|executor| executor.queues()) {
            return;
        }
        match set {
            Some(set) => self.start_set(set, after).await,
            None => self.start_after(index, after).await,
        };
    }

    /// Returns the tasks of `index`'s set that start now, if several do. `members`: it and the tasks of its group.
    fn joined_now(&self, index: usize, members: &[usize]) -> Option<Members> {
        let set = self.sets.of(index)?;
        if set.kind == TaskSetKind::Group {
            return self.joined(index, members);
        }
        let is_ready =
            |task: &usize| self.tasks[*task].state == TaskState::Pending && self.graph.readiness(*task, &self.tasks) == Readiness::Ready;
        let ready: Vec<_> = set.tasks.iter().copied().filter(is_ready).collect();
        self.joined(index, &ready)
    }

    /// Records the end of a task. A task that did not succeed stops its whole group.
    pub(super) fn end(&mut self, index: usize, state: TaskState, report: Option<RunReport>) {
        let task = &mut self.tasks[index];
        task.state = state.clone();
        task.report.clone_from(&report);
        task.ended = Some(environment::unix_ms());
        let succeeded = state == TaskState::Succeeded;
        self.note(
            Some(index),
            Change::Ended {
                state,
                report: report.map(Box::new),
            },
        );
        for plugin in &self.plugins {
            plugin.after_end(&self.tasks[index]);
        }
        if !succeeded {
            for other in self.graph.gang(index) {
                request_stop(&self.stops[*other], StopSignal::Terminate);
            }
        }
    }

    /// Requests the stop of a running task, or ends a pending one.
    pub(super) fn cancel(&mut self, index: usize) {
        request_stop(&self.stops[index], StopSignal::Terminate);
        if self.tasks[index].state == TaskState::Pending {
            self.end(index, TaskState::Cancelled, None);
        }
    }

    pub(super) fn cancel_all(&mut self, signal: StopSignal) {
        self.cancelled = true;
        self.stops.iter().for_each(|stop| request_stop(stop, signal));
    }
}

/// Requests the stop of a job, if there is one.
fn request_stop(stop: &Option<watch::Sender<StopRequests>>, signal: StopSignal) {
    if let Some(stop) = stop {
        stop.send_modify(|requests| requests.add(signal));
    }
}
