//! Recorder of the spans of a rank: phases of its steps, collectives, work of its threads. Without a profile it does nothing.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tch::Device;

/// A handle of a rank's recorder. All handles of a rank record together.
#[derive(Debug, Clone, Default)]
pub struct Profiler(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    started: Instant,
    /// Unix time of `started`, in microseconds.
    started_unix_us: u64,
    active: AtomicBool,
    /// The rank's GPU, whose queue a phase waits for: a kernel's time then belongs to the phase that started it.
    gpu: Option<usize>,
    /// The threads by number, and what they recorded.
    recorded: Mutex<(Vec<ThreadId>, Recorded)>,
}

/// A collective is overlapped with work of its thread if that much time passes before the wait for it, in nanoseconds.
const OVERLAP: u64 = 20_000;

/// What a rank recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Unix time of the first moment, in microseconds. All other times count from there.
    pub started_unix_us: u64,
    /// Names of the threads.
    pub threads: Vec<String>,
    /// Spans in the order of their ends.
    pub spans: Vec<Span>,
}

/// An interval on a thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Name of the phase or of the operation.
    pub name: Cow<'static, str>,
    /// Number of the thread in [`Recorded::threads`].
    pub thread: usize,
    /// Start in nanoseconds.
    pub start: u64,
    /// End in nanoseconds.
    pub end: u64,
    /// Processor time of the whole process meanwhile, in nanoseconds; 0 for collectives.
    pub processor: u64,
    /// More about it.
    pub details: Details,
}

/// What a span belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Details {
    /// Nothing more.
    None,
    /// An optimizer step, from 0.
    Step(u64),
    /// A pass of a model chunk.
    Pass {
        /// Number of the microbatch in the step.
        microbatch: usize,
        /// Number of the chunk on this rank.
        chunk: usize,
    },
    /// A collective or a transfer; the span is the wait for it, from its start if the wait follows at once.
    Collective {
        /// Name of the group.
        group: Cow<'static, str>,
        /// Bytes that this rank sends, or receives in a `recv`.
        bytes: u64,
        /// Time at which it was started, in nanoseconds.
        started: u64,
    },
}

/// Start of a span.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    at: u64,
    processor: u64,
}

/// A span that ends when it is dropped.
#[must_use = "a span ends when it is dropped"]
#[derive(Debug)]
pub struct OpenSpan<'a> {
    open: Option<(&'a Recorder, Begin)>,
    name: &'static str,
    details: Option<Details>,
}

impl Profiler {
    /// Starts a recorder.
    pub fn start(device: Device) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Some(Arc::new(Recorder {
            started: Instant::now(),
            started_unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            active: AtomicBool::new(true),
            gpu: match device {
                Device::Cuda(gpu) => Some(gpu),
                _ => None,
            },
            recorded: Mutex::default(),
        })))
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.0.as_deref().filter(|recorder| recorder.active.load(Ordering::Relaxed))
    }

    /// Returns whether spans are recorded.
    pub fn is_active(&self) -> bool {
        self.recorder().is_some()
    }

    /// Opens a span. It waits for the GPU's queue at both ends.
    pub fn span(&self, name: &'static str) -> OpenSpan<'_> {
        self.span_of(name, Details::None)
    }

    /// Opens a span with details.
    pub fn span_of(&self, name: &'static str, details: Details) -> OpenSpan<'_> {
        OpenSpan {
            open: self.recorder().map(|recorder| (recorder, recorder.begin(true))),
            name,
            details: Some(details),
        }
    }

    /// Returns the start of a span that [`Self::end`] records.
    pub fn begin(&self) -> Option<Begin> {
        self.recorder().map(|recorder| recorder.begin(true))
    }

    /// Records a span that began before.
    pub fn end(&self, begin: Option<Begin>, name: &'static str, details: Details) {
        if let (Some(recorder), Some(begin)) = (self.recorder(), begin) {
            recorder.end(begin, name, details, true);
        }
    }

    /// Returns the present moment, for [`Self::collective`].
    pub(crate) fn now(&self) -> Option<u64> {
        self.recorder().map(Recorder::now)
    }

    /// Runs `wait` for a collective of `bytes` in `group`, whose start took place between the two moments `start`. It does not
    /// wait for the GPU's queue.
    pub(crate) fn collective<T>(&self, [name, group]: [&'static str; 2], bytes: u64, start: [u64; 2], wait: impl FnOnce() -> T) -> T {
        let Some(recorder) = self.recorder() else { return wait() };
        let [started, returned] = start;
        let mut begin = recorder.begin(false);
        if begin.at.saturating_sub(returned) < OVERLAP && recorder.is_idle_since(started) {
            begin.at = started;
        }
        let value = wait();
        let group = Cow::Borrowed(group);
        recorder.end(begin, name, Details::Collective { group, bytes, started }, false);
        value
    }

    /// Ends the recording, and returns what was recorded; nothing if it was ended before.
    pub fn finish(&self) -> Option<Recorded> {
        let recorder = self.0.as_deref()?;
        recorder.active.swap(false, Ordering::Relaxed).then(|| Recorded {
            started_unix_us: recorder.started_unix_us,
            ..std::mem::take(&mut recorder.lock().1)
        })
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, (Vec<ThreadId>, Recorded)> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn begin(&self, is_phase: bool) -> Begin {
        if is_phase {
            self.wait_for_gpu();
        }
        Begin {
            at: self.now(),
            processor: if is_phase { processor_nanoseconds() } else { 0 },
        }
    }

    fn end(&self, begin: Begin, name: &'static str, details: Details, is_phase: bool) {
        if is_phase {
            self.wait_for_gpu();
        }
        let processor = if is_phase {
            processor_nanoseconds().saturating_sub(begin.processor)
        } else {
            0
        };
        let end = self.now();
        let current = std::thread::current();
        let mut recorded = self.lock();
        let (ids, recorded) = &mut *recorded;
        let thread = ids.iter().position(|id| *id == current.id()).unwrap_or_else(|| {
            ids.push(current.id());
            // Ranks of a test are threads without a name.
            recorded.threads.push(current.name().unwrap_or("rank").to_owned());
            ids.len() - 1
        });
        recorded.spans.push(Span {
            name: Cow::Borrowed(name),
            thread,
            start: begin.at,
            end,
            processor,
            details,
        });
    }

    /// Returns whether no span of this thread has ended since then.
    fn is_idle_since(&self, moment: u64) -> bool {
        let recorded = self.lock();
        let (ids, recorded) = &*recorded;
        let current = std::thread::current().id();
        let Some(thread) = ids.iter().position(|id| *id == current) else {
            return true;
        };
        let last = recorded.spans.iter().rev().find(|span| span.thread == thread);
        last.is_none_or(|span| span.end <= moment)
    }

    fn wait_for_gpu(&self) {
        if let Some(gpu) = self.gpu {
            tch::Cuda::synchronize(gpu as i64);
        }
    }
}

impl Drop for OpenSpan<'_> {
    fn drop(&mut self) {
        if let (Some((recorder, begin)), Some(details)) = (self.open.take(), self.details.take()) {
            recorder.end(begin, self.name, details, true);
        }
    }
}

/// Returns the processor time of this process.
fn processor_nanoseconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
