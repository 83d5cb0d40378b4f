//! Scheduling: starts tasks that are ready, ends tasks that never will be, and cancels tasks.

use std::collections::VecDeque;

use neva_schemas::{RunReport, StopSignal};
use tokio::sync::watch;

use super::{
    super::{event::Change, report::TaskState, task_graph::Readiness},
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
                Readiness::Waiting => {}
                Readiness::Never(reason) => {
                    self.end(index, TaskState::Skipped(reason), None);
                    // Tasks that are listed before this one may depend on it.
                    queue.extend(0..index);
                }
                Readiness::Ready => {
                    let gang = self.graph.gang(index).iter();
                    let gang = gang.filter(|other| self.tasks[**other].state == TaskState::Pending);
                    let members: Vec<_> = gang.copied().chain([index]).collect();
                    if !self.resources.fits(&members) {
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
