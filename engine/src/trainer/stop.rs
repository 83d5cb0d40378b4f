//! Stop requests by a signal, the clock or a callback. All ranks stop after the same step.

use crate::comm::{Mesh, Reduce};
use crate::error::{EngineError, Result};
use crate::file_limit::report_file_limit;
use neva_schemas::{Period, SIGNAL_MASKS_FILE, SignalMasks, StopSignal};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Exit code of a rank after a second request.
const SECOND_REQUEST: i32 = 1;

/// Signals within this time of the first one count as the same request: a terminal and a launcher in it both forward
/// Ctrl-C, and a shell repeats the hangup of its terminal.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Code of the caller's own request, beside the numbers of signals.
const BY_CALLER: usize = 1000;

/// Code of a launcher that has died.
const BY_LAUNCHER: usize = 1001;

/// A request to save and stop, which may come at any time. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StopRequest {
    signal: Arc<AtomicUsize>,
}

impl StopRequest {
    /// Listens to each [`StopSignal`] that the process was not started to ignore, as under `nohup`. A second one ends
    /// the process at once, except SIGHUP, which a terminal and its shell both send. From now on, a file that exceeds
    /// `ulimit -f` is an error of its writer, and does not end the process.
    ///
    /// # Errors
    /// Signal handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let request = Self::default();
        let masks = SignalMasks::parse(&std::fs::read_to_string(SIGNAL_MASKS_FILE).unwrap_or_default());
        let numbers = StopSignal::ALL.map(StopSignal::number);
        let heard = numbers.into_iter().filter(|number| !masks.ignores(*number));
        let failed = |error| EngineError::Machine(format!("cannot listen for signals: {error}"));
        let mut signals = Signals::new(heard).map_err(failed)?;
        report_file_limit()?;
        let requested = request.clone();
        let listen = move || {
            let mut first = None;
            for number in signals.forever() {
                let since = *first.get_or_insert_with(Instant::now);
                requested.request(usize::try_from(number).unwrap_or(BY_CALLER));
                let again = since.elapsed() > SAME_REQUEST && number != StopSignal::Hangup.number();
                if again {
                    low_level::exit(SECOND_REQUEST);
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(request)
    }

    /// Requests a stop from within the process: every run that shares the request saves and stops after the current step.
    pub fn stop(&self) {
        self.request(BY_CALLER);
    }

    /// Requests a stop because the launcher has died.
    pub(crate) fn launcher_ended(&self) {
        self.request(BY_LAUNCHER);
    }

    /// Records the first request, whose reason the report states.
    fn request(&self, code: usize) {
        let _ = self.signal.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns true after a request.
    pub fn is_requested(&self) -> bool {
        self.code() != 0
    }

    fn code(&self) -> i64 {
        self.signal.load(Ordering::Relaxed) as i64
    }
}

/// Reason why a run stops before its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A request from outside: the signal's name, or the source.
    Request(&'static str),
    /// A rule of the run, in words.
    Rule(String),
}

/// Agreement of all ranks after each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    /// The run saves and stops for this reason.
    pub(super) stop: Option<Stop>,
    /// The interval between checkpoints is over.
    pub(super) save: bool,
    /// The save in progress has ended, with or without success.
    pub(super) save_done: bool,
    /// A rank has no data for the next step.
    pub(super) data_failed: bool,
}

/// Status of one rank between two steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalStatus {
    /// As [`Agreement::save_done`].
    pub(super) save_done: bool,
    /// As [`Agreement::data_failed`].
    pub(super) data_failed: bool,
}

/// Clocks of a run. Only those of the first rank count.
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

    /// Restarts the interval after a save.
    pub(super) fn saved(&mut self) {
        self.saved = Instant::now();
    }

    /// Agrees on the next action of all ranks. A request that reached one rank counts for all, and so does one rank's status
    /// of the save in progress and of its data.
    pub(super) fn agree(&self, request: &StopRequest, rule: Option<&str>, status: LocalStatus, mesh: &Mesh) -> Result<Agreement> {
        let over = |limit: Option<Duration>, since: Instant| mesh.is_first() && limit.is_some_and(|limit| since.elapsed() >= limit);
        let mine = [
            request.code(),
            i64::from(rule.is_some()),
            i64::from(over(self.max_time, self.started)),
            i64::from(over(self.interval, self.saved)),
            i64::from(status.save_done),
            i64::from(status.data_failed),
        ];
        let all = Tensor::from_slice(&mine);
        mesh.world().all_reduce(&all, Reduce::Max)?;
        let [signal, ruled, time, save, save_done, data_failed] = [0, 1, 2, 3, 4, 5].map(|index| all.int64_value(&[index]));
        let stop = match signal {
            0 if ruled > 0 => Some(Stop::Rule(rule.unwrap_or("a callback of another rank").to_owned())),
            0 if time > 0 => Some(Stop::Rule("max_time is over".into())),
            0 => None,
            signal if signal == BY_LAUNCHER as i64 => Some(Stop::Request("the end of its launcher")),
            signal => {
                let named = i32::try_from(signal).ok().and_then(StopSignal::from_number);
                Some(Stop::Request(named.map_or("a request", StopSignal::name)))
            }
        };
        Ok(Agreement {
            stop,
            save: save > 0,
            save_done: save_done > 0,
            data_failed: data_failed > 0,
        })
    }
}
