//! Requests to stop, from signals; and Ctrl-Z, which suspends the jobs together with this program.

use std::{
    fs, io,
    sync::{
        Mutex, MutexGuard, Once, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use neva_executors::local::{continue_jobs, pause_jobs};
use neva_schemas::{SIGNAL_MASKS_FILE, SignalMasks, StopSignal};
use signal_hook::{consts::SIGTSTP, iterator::Signals, low_level::emulate_default_handler};
use tokio::{sync::watch, time::sleep};

use crate::error::RunError;

/// Signals within this time of the first one count as one request: a shell repeats the hangup of its terminal.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Requests to stop a job. The first lets it save a checkpoint and exit; the second kills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StopRequests {
    /// Number of requests.
    pub(crate) count: u32,
    /// Signal of the first request.
    pub(crate) signal: StopSignal,
}

impl StopRequests {
    /// Adds a request.
    pub(crate) fn add(&mut self, signal: StopSignal) {
        if self.count == 0 {
            self.signal = signal;
        }
        self.count = self.count.saturating_add(1);
    }
}

/// Waits for the next request to stop; forever if no sender is left.
pub(crate) async fn next_request(requests: &mut watch::Receiver<StopRequests>) {
    if requests.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Time that a submission has to end after a request to stop, so that the job that it creates is known and can be cancelled.
const SUBMISSION_GRACE: Duration = Duration::from_secs(30);

/// Waits until a submission has to be given up: a second request to stop, or some time after the first.
pub(crate) async fn give_up_submission(requests: &watch::Receiver<StopRequests>) {
    static ONCE: Once = Once::new();
    let mut requests = requests.clone();
    at_least(1, &mut requests).await;
    // The tasks of an experiment may be a thousand submissions.
    let grace = SUBMISSION_GRACE.as_secs();
    ONCE.call_once(|| tracing::warn!("the submission has {grace} s to end before it is given up; a second request gives it up at once"));
    tokio::select! {
        () = sleep(SUBMISSION_GRACE) => {}
        () = at_least(2, &mut requests) => {}
    }
}

/// Waits for so many requests; forever if nobody can request a stop any more.
async fn at_least(count: u32, requests: &mut watch::Receiver<StopRequests>) {
    if requests.wait_for(|requests| requests.count >= count).await.is_err() {
        std::future::pending().await
    }
}

/// Turns each stop signal of this process into a request, as long as the receiver lives. After that, signals have their
/// default effect.
///
/// # Errors
/// The signal handlers cannot be installed.
pub(crate) fn forward_signals(requests: watch::Sender<StopRequests>) -> Result<(), RunError> {
    static STARTED: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();
    lock().push(Listener { requests, first: None });
    let started = STARTED.get_or_init(|| listen().map_err(|error| error.kind()));
    started.map_err(|kind| RunError::System {
        action: "listen for signals",
        source: kind.into(),
    })
}

/// Returns true if a signal has requested a stop.
pub(crate) fn is_stop_requested() -> bool {
    STOP_REQUESTED.load(Ordering::Relaxed)
}

/// Set by the first stop signal.
static STOP_REQUESTED: AtomicBool = AtomicBool::new(false);

/// A run of this process that receives requests.
struct Listener {
    requests: watch::Sender<StopRequests>,
    /// Time of the first request.
    first: Option<Instant>,
}

/// All runs of this process.
static RUNS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

fn lock() -> MutexGuard<'static, Vec<Listener>> {
    RUNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles signals on a separate thread. It prints nothing, so that no reader of this program's output can block it.
/// Signals that the process inherited as ignored, as from `nohup`, stay ignored.
fn listen() -> io::Result<()> {
    let masks = SignalMasks::parse(&fs::read_to_string(SIGNAL_MASKS_FILE).unwrap_or_default());
    let numbers = StopSignal::ALL.map(StopSignal::number).into_iter().chain([SIGTSTP]);
    let mut signals = Signals::new(numbers.filter(|number| !masks.ignores(*number)))?;
    let listen = move || {
        for number in signals.forever() {
            match StopSignal::from_number(number) {
                Some(signal) => deliver(signal, masks),
                None => suspend(),
            }
        }
    };
    let _thread = thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(())
}

/// Sends a request to all runs of this process.
fn deliver(signal: StopSignal, masks: SignalMasks) {
    let mut runs = lock();
    runs.retain(|run| !run.requests.is_closed());
    if runs.is_empty() {
        // A handler that the caller installed was called already and decides.
        if !masks.catches(signal.number()) {
            let _ = emulate_default_handler(signal.number());
        }
        return;
    }
    STOP_REQUESTED.store(true, Ordering::Relaxed);
    for run in runs.iter_mut() {
        // A repeated hangup of a closed terminal is no second request.
        let counts = run
            .first
            .is_none_or(|first| first.elapsed() > SAME_REQUEST && signal != StopSignal::Hangup);
        run.first.get_or_insert_with(Instant::now);
        if counts {
            run.requests.send_modify(|requests| requests.add(signal));
        }
    }
}

/// Suspends the jobs, then this process; SIGCONT resumes both.
fn suspend() {
    pause_jobs();
    let _ = emulate_default_handler(SIGTSTP);
    continue_jobs();
}
