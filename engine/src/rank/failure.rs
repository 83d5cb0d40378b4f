//! Failure records, which the launcher reads, of errors and panics.

use crate::error::EngineError;
use neva_schemas::{FAILURES_FILE, RankFailure, exit_class};
use std::any::Any;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Creates the record of an error.
pub(super) fn record(rank: u32, step: Option<u64>, error: &EngineError) -> RankFailure {
    let mut chain = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        // Messages that already include their cause are not repeated.
        if !chain.iter().any(|text| text.contains(&cause.to_string())) {
            chain.push(cause.to_string());
        }
        source = cause.source();
    }
    RankFailure {
        class: error.exit_code(),
        rank,
        step,
        unix_ms: now(),
        chain,
        peer_failure: error.is_peer_failure(),
        help: error.help(),
    }
}

/// Creates the record of a panic. tch's operators panic when libtorch throws.
pub(super) fn record_panic(rank: u32, step: Option<u64>, panic: &(dyn Any + Send)) -> RankFailure {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic");
    let memory = ["out of memory", "can't allocate memory", "not enough memory"]
        .iter()
        .any(|words| text.contains(words));
    let (class, first) = if memory {
        (
            exit_class::JOB,
            "out of memory: use a smaller micro_batch_size or seq_length, or more tensor-parallel ranks".to_owned(),
        )
    } else {
        (exit_class::BUG, "bug, please report it".to_owned())
    };
    RankFailure {
        class,
        rank,
        step,
        unix_ms: now(),
        chain: vec![first, text.lines().next().unwrap_or_default().to_owned()],
        peer_failure: false,
        help: None,
    }
}

/// Appends the record to the run's file in one write, so that the lines of ranks do not mix.
pub(super) fn append(run_dir: &Path, failure: &RankFailure) {
    // A rank that failed before it knew rank 0's folder has none. The failure is on its standard error.
    if !run_dir.is_dir() {
        return;
    }
    let Ok(mut line) = serde_json::to_vec(failure) else { return };
    line.push(b'\n');
    let file = OpenOptions::new().create(true).append(true).open(run_dir.join(FAILURES_FILE));
    if let Err(error) = file.and_then(|mut file| file.write_all(&line)) {
        tracing::error!("cannot record the failure in {}: {error}", run_dir.display());
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
