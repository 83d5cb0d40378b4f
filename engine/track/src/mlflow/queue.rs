//! Queue of metrics between the training thread and the sender.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::{METRICS_PER_REQUEST, Metric};
use crate::Outcome;

/// Maximum number of queued values, about 5000 steps; beyond it the oldest are dropped.
const MAX_LENGTH: usize = 50_000;
/// Interval over which values are batched, so that fast steps do not cause as many requests.
const GATHER: Duration = Duration::from_secs(1);

/// Queued values, and the run's end.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Metric>,
    /// Number of values that are being sent.
    sending: usize,
    /// Number of dropped values.
    lost: usize,
    end: Option<End>,
    /// True if the sender has ended, so that nothing will be sent any more.
    closed: bool,
}

/// End of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub outcome: Outcome,
    /// Time until which the run waits for the sender.
    pub deadline: Instant,
}

impl Queue {
    /// Adds values. Never waits for the sender.
    pub(super) fn push(&self, metrics: impl IntoIterator<Item = Metric>) {
        let mut state = self.lock();
        state.waiting.extend(metrics);
        let excess = if state.closed {
            state.waiting.len()
        } else {
            state.waiting.len().saturating_sub(MAX_LENGTH)
        };
        state.waiting.drain(..excess);
        state.lost += excess;
        self.changed.notify_all();
    }

    /// Waits for values to send, at most [`METRICS_PER_REQUEST`]; `last` is the time of the last request. Returns `None` if
    /// the run is over and all values were taken.
    pub(super) fn next(&self, last: Instant) -> Option<Vec<Metric>> {
        let mut state = self.lock();
        loop {
            let gathered = last.elapsed() >= GATHER || state.waiting.len() >= METRICS_PER_REQUEST || state.end.is_some();
            if gathered && !state.waiting.is_empty() {
                let count = state.waiting.len().min(METRICS_PER_REQUEST);
                state.sending = count;
                return Some(state.waiting.drain(..count).collect());
            }
            if state.end.is_some() {
                return None;
            }
            state = if state.waiting.is_empty() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.wait(state, GATHER.saturating_sub(last.elapsed()))
            };
        }
    }

    /// Marks the values of [`Self::next`] as delivered or dropped.
    pub(super) fn sent(&self, delivered: bool) {
        let mut state = self.lock();
        let count = std::mem::take(&mut state.sending);
        if !delivered {
            state.lost += count;
        }
    }

    /// Ends the run: the sender must finish within `timeout`.
    pub(super) fn end(&self, outcome: Outcome, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.lock().end = Some(End { outcome, deadline });
        self.changed.notify_all();
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.lock().end
    }

    /// Waits for `pause`, or until the end of the run.
    pub(super) fn rest(&self, pause: Duration) {
        let state = self.lock();
        let ended = state.end.is_some();
        let waited = self.changed.wait_timeout_while(state, pause, |state| state.end.is_some() == ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Closes the queue when the sender ends; queued values are dropped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lost += std::mem::take(&mut state.sending) + state.waiting.len();
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// Waits at most `timeout` for the end of the sender; after it, queued values are dropped.
    pub(super) fn wait_closed(&self, timeout: Duration) {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, timeout, |state| !state.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.close();
    }

    /// Returns the number of dropped values.
    pub(super) fn lost(&self) -> usize {
        self.lock().lost
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
