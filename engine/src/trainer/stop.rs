//! Being asked to stop: by a signal, by the clock, by a callback. All ranks stop after the same step.

use crate::comm::{Mesh, Reduce};
use crate::error::{EngineError, Result};
use neva_schemas::Period;
use signal_hook::consts::{SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Exit code of a rank that is asked a second time.
const AT_ONCE: i32 = 1;

/// Stands for the caller's own request among the numbers of signals; that of SIGHUP, which nobody listens for.
const BY_CALLER: usize = 1;

/// A request to save and stop, which may come at any time. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StopRequest {
    signal: Arc<AtomicUsize>,
}

impl StopRequest {
    /// Stops on SIGTERM and on SIGUSR1, which Slurm sends ahead of a time limit. A second one ends the process at
    /// once.
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub fn on_signals() -> Result<Self> {
        let request = Self::default();
        let once = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGUSR1] {
            let register = || {
                flag::register_conditional_shutdown(signal, AT_ONCE, once.clone())?;
                flag::register(signal, once.clone())?;
                flag::register_usize(signal, request.signal.clone(), signal as usize)
            };
            register().map_err(|error| EngineError::Machine(format!("cannot listen for signals: {error}")))?;
        }
        Ok(request)
    }

    /// Asks in place of a signal, from within the process: every run that shares the request saves and stops after
    /// the step under way.
    pub fn stop(&self) {
        self.signal.store(BY_CALLER, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.code() != 0
    }

    fn code(&self) -> i64 {
        self.signal.load(Ordering::Relaxed) as i64
    }
}

/// Why a run stops before its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A request from outside: the signal of this name, or `a request`.
    Request(&'static str),
    /// Its own rules, in words.
    Rule(String),
}

/// What the ranks agree on after each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    /// The run saves and stops.
    pub(super) stop: Option<Stop>,
    /// The interval between checkpoints is over.
    pub(super) save: bool,
    /// The checkpoint that was being written is there, or could not be written.
    pub(super) saved: bool,
}

/// The clocks of a run. Only those of the first rank count.
#[derive(Debug)]
pub(super) struct Clocks {
    started: Instant,
    saved: Instant,
    max_time: Option<Duration>,
    interval: Option<Duration>,
}

impl Clocks {
    pub(super) fn start(max_time: Option<Period>, interval: Option<Period>) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            saved: now,
            max_time: max_time.map(Period::duration),
            interval: interval.map(Period::duration),
        }
    }

    /// A checkpoint was written: the interval begins anew.
    pub(super) fn saved(&mut self) {
        self.saved = Instant::now();
    }

    /// What all ranks do next: a request that reached any of them counts for all, and so does what one of them knows of
    /// the checkpoint that is being written.
    pub(super) fn agree(&self, request: &StopRequest, rule: Option<&str>, saved: bool, mesh: &Mesh) -> Result<Agreement> {
        let over = |limit: Option<Duration>, since: Instant| mesh.is_first() && limit.is_some_and(|limit| since.elapsed() >= limit);
        let mine = [
            request.code(),
            i64::from(rule.is_some()),
            i64::from(over(self.max_time, self.started)),
            i64::from(over(self.interval, self.saved)),
            i64::from(saved),
        ];
        let all = Tensor::from_slice(&mine);
        mesh.world().all_reduce(&all, Reduce::Max)?;
        let [signal, ruled, time, save, saved] = [0, 1, 2, 3, 4].map(|index| all.int64_value(&[index]));
        let stop = match signal {
            0 if ruled > 0 => Some(Stop::Rule(rule.unwrap_or("a callback of another rank").to_owned())),
            0 if time > 0 => Some(Stop::Rule("max_time is over".into())),
            0 => None,
            signal if signal == BY_CALLER as i64 => Some(Stop::Request("a request")),
            signal if signal == i64::from(SIGUSR1) => Some(Stop::Request("SIGUSR1")),
            _ => Some(Stop::Request("SIGTERM")),
        };
        Ok(Agreement {
            stop,
            save: save > 0,
            saved: saved > 0,
        })
    }
}
