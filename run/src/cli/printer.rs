//! Printer for standard error, on a separate thread: a blocked reader, a closed terminal or a full disk blocks nobody,
//! and printing cannot fail.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use neva_track::Lossy;

use crate::{config, job};

/// Maximum number of queued messages; further ones are dropped.
const MAX_QUEUED: usize = 100_000;

/// Time that a stopped program waits for the reader of its last messages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which a stop request is polled.
const TICK: Duration = Duration::from_millis(20);

/// A queued print operation.
type Print = Box<dyn FnOnce() + Send>;

/// Queue of the printer thread.
struct Printer {
    queue: Sender<Print>,
    waiting: Arc<AtomicUsize>,
}

/// Returns the printer; `None` if its thread cannot be started. Then callers print themselves and may block.
fn printer() -> Option<&'static Printer> {
    static PRINTER: OnceLock<Option<Printer>> = OnceLock::new();
    let start = || {
        let (queue, prints) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let run = move || work(&prints, &left);
        let started = thread::Builder::new().name("printer".into()).spawn(run).is_ok();
        started.then_some(Printer { queue, waiting })
    };
    PRINTER.get_or_init(start).as_ref()
}

fn work(prints: &Receiver<Print>, waiting: &AtomicUsize) {
    while let Ok(print) = prints.recv() {
        print();
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Queues `print` behind earlier messages.
pub(super) fn print(print: impl FnOnce() + Send + 'static) {
    match printer() {
        None => print(),
        Some(printer) if printer.waiting.load(Ordering::Relaxed) < MAX_QUEUED => {
            printer.waiting.fetch_add(1, Ordering::Relaxed);
            // The thread lives as long as the program.
            let _ = printer.queue.send(Box::new(print));
        }
        Some(_) => {}
    }
}

/// Prints a line, with control characters escaped.
pub(super) fn line(text: impl Display) {
    let text = format!("{}\n", config::visible(&text.to_string()));
    write(text.into_bytes());
}

/// Prints bytes unchanged.
pub(super) fn write(bytes: Vec<u8>) {
    print(move || {
        let _ = Lossy(io::stderr()).write_all(&bytes);
    });
}

/// Waits until everything is printed. After a stop signal, waits for at most [`FLUSH_TIMEOUT`].
pub(super) fn flush() {
    let Some(printer) = printer() else { return };
    let (done, printed) = channel::<()>();
    printer.waiting.fetch_add(1, Ordering::Relaxed);
    let _ = printer.queue.send(Box::new(move || drop(done)));
    let mut left = FLUSH_TIMEOUT;
    while let Err(RecvTimeoutError::Timeout) = printed.recv_timeout(TICK) {
        if job::is_stop_requested() {
            left = left.saturating_sub(TICK);
        }
        if left.is_zero() {
            return;
        }
    }
}

/// Writer of the log to standard error.
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
