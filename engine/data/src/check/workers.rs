//! Threads of a check. They check batches of records, and the caller's thread gets the results in the order of the files.
//! The number of batches under way is bounded, and so is the memory.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel},
    },
    thread::Builder,
    time::Duration,
};

use super::{
    error::CheckError,
    image_files::ImageFiles,
    options::ImageCheck,
    probe::{Probe, Source},
    sample::{CheckedRecord, check_record},
};

/// Maximum number of records of a batch.
const RECORDS: usize = 64;

/// Number of batches under way for each worker.
const WINDOW: usize = 4;

/// Interval at which the caller is asked whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// Records of one file.
struct Job {
    number: u64,
    /// Index of the file.
    file: usize,
    records: Range<usize>,
}

/// Checked records of one file.
#[derive(Default)]
pub(super) struct Batch {
    number: u64,
    /// Index of the file.
    pub(super) file: usize,
    pub(super) records: Vec<CheckedRecord>,
}

/// What all threads share.
struct Shared {
    probe: Arc<Probe>,
    sources: Arc<[Source]>,
    images: ImageFiles,
    check: ImageCheck,
    stopped: AtomicBool,
}

/// Checks all records of `sources`, and passes them to `visit` in their order. While nothing is ready, `visit` gets empty
/// batches, so that it can stop the check.
///
/// # Errors
/// Returns the error of `visit`. Threads may then end later.
pub(super) fn check_all(
    probe: &Arc<Probe>,
    sources: &Arc<[Source]>,
    check: ImageCheck,
    workers: usize,
    visit: &mut dyn FnMut(Batch) -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    let shared = Arc::new(Shared {
        probe: Arc::clone(probe),
        sources: Arc::clone(sources),
        images: ImageFiles::new(check),
        check,
        stopped: AtomicBool::new(false),
    });
    let mut jobs = jobs(sources);
    let (queue, taken) = channel();
    let (results, done) = sync_channel(workers * WINDOW);
    let taken = Arc::new(Mutex::new(taken));
    for number in 0..workers {
        let (shared, taken, results) = (Arc::clone(&shared), Arc::clone(&taken), results.clone());
        let work = move || work(&shared, &taken, &results);
        let started = Builder::new().name(format!("check-{number}")).spawn(work);
        started.map_err(|source| CheckError::Thread { source })?;
    }
    drop(results);
    for job in jobs.by_ref().take(workers * WINDOW) {
        // A worker that ended reported that it panicked.
        let _ = queue.send(job);
    }
    let mut next_job = move || {
        if let Some(job) = jobs.next() {
            let _ = queue.send(job);
        }
    };
    let outcome = collect(&done, total(sources), &mut next_job, visit);
    shared.stopped.store(true, Ordering::Relaxed);
    outcome
}

/// Returns the jobs of all files, in their order.
fn jobs(sources: &[Source]) -> impl Iterator<Item = Job> + use<> {
    let lens: Vec<usize> = sources.iter().map(Source::len).collect();
    let ranges = lens.into_iter().enumerate().flat_map(|(file, len)| {
        let starts = (0..len).step_by(RECORDS);
        starts.map(move |start| (file, start..(start + RECORDS).min(len)))
    });
    (0..).zip(ranges).map(|(number, (file, records))| Job { number, file, records })
}

/// Returns the number of jobs.
fn total(sources: &[Source]) -> u64 {
    sources.iter().map(|source| source.len().div_ceil(RECORDS) as u64).sum()
}

/// Passes `total` batches to `visit` in their order. Each one lets the next job start.
fn collect(
    done: &Receiver<Option<Batch>>,
    total: u64,
    next_job: &mut dyn FnMut(),
    visit: &mut dyn FnMut(Batch) -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    while next < total {
        match done.recv_timeout(POLL) {
            Ok(Some(batch)) => {
                waiting.insert(batch.number, batch);
                while let Some(batch) = waiting.remove(&next) {
                    visit(batch)?;
                    next += 1;
                    next_job();
                }
            }
            Err(RecvTimeoutError::Timeout) => visit(Batch::default())?,
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return Err(CheckError::Panicked),
        }
    }
    Ok(())
}

/// Checks jobs until there is none. Sends `None` after a panic.
fn work(shared: &Shared, taken: &Mutex<Receiver<Job>>, results: &SyncSender<Option<Batch>>) {
    loop {
        let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let checked = catch_unwind(AssertUnwindSafe(|| check_job(shared, job))).ok();
        let has_panicked = checked.is_none();
        if results.send(checked).is_err() || has_panicked {
            return;
        }
    }
}

fn check_job(shared: &Shared, job: Job) -> Batch {
    let Shared {
        probe,
        sources,
        images,
        check,
        stopped,
    } = shared;
    let records = job.records.take_while(|_| !stopped.load(Ordering::Relaxed));
    let source = sources.get(job.file);
    Batch {
        number: job.number,
        file: job.file,
        records: records
            .filter_map(|index| Some(check_record(probe, images, *check, source?, index)))
            .collect(),
    }
}
