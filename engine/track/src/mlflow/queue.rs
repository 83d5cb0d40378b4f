//! What is still to be sent: between the thread that trains and the one that sends.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::{METRICS_PER_REQUEST, Metric};
use crate::Outcome;

/// Most values that wait; of more the oldest are lost. About 5 000 steps.
const LONGEST: usize = 50_000;
/// Values are gathered for so long, so that fast steps do not mean as many requests.
const GATHER: Duration = Duration::from_secs(1);

/// Values that wait, and how the run ended.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Metric>,
    /// Values that are being sent.
    sending: usize,
    /// Values that will never be sent.
    lost: usize,
    end: Option<End>,
    /// The sender is gone: nothing will be sent any more.
    closed: bool,
}

/// The run is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub outcome: Outcome,
    /// Nobody waits for the sender after it.
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
            state.waiting.len().saturating_sub(LONGEST)
        };
        state.waiting.drain(..excess);
        state.lost += excess;
        self.changed.notify_all();
    }

    /// Waits for values to send, at most [`METRICS_PER_REQUEST`], since `last`, when values were last sent. `None`:
    /// the run is over, and all were.
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

    /// What [`Self::next`] gave was sent, or never will be.
    pub(super) fn sent(&self, delivered: bool) {
        let mut state = self.lock();
        let count = std::mem::take(&mut state.sending);
        if !delivered {
            state.lost += count;
        }
    }

    /// The run is over: the sender is to hurry.
    pub(super) fn end(&self, outcome: Outcome, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.lock().end = Some(End { outcome, deadline });
        self.changed.notify_all();
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.lock().end
    }

    /// Waits for `pause`; the end of the run cuts it short.
    pub(super) fn rest(&self, pause: Duration) {
        let state = self.lock();
        let ended = state.end.is_some();
        let waited = self.changed.wait_timeout_while(state, pause, |state| state.end.is_some() == ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The sender is gone: what waits is lost.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lost += std::mem::take(&mut state.sending) + state.waiting.len();
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// Waits until the sender is gone, but not for longer than `patience`; after it, what waits is lost.
    pub(super) fn wait_closed(&self, patience: Duration) {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, patience, |state| !state.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.close();
    }

    /// Values that are lost by now.
    pub(super) fn lost(&self) -> usize {
        self.lock().lost
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A state is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
