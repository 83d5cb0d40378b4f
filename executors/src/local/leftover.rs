//! Processes that a job left behind when its supervisor was killed. They would run beside the next job in the folder.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use neva_schemas::env;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// Grace period to save and exit.
const GRACE: Duration = Duration::from_secs(2);

/// Timeout after SIGKILL.
const DEADLINE: Duration = Duration::from_secs(5);

const TICK: Duration = Duration::from_millis(5);

/// Ends the leftover processes of the job in `dir` with SIGTERM, then SIGKILL, and waits for their exit.
pub(super) async fn end(dir: &Path) {
    for (signal, timeout) in [(Signal::TERM, GRACE), (Signal::KILL, DEADLINE)] {
        let deadline = Instant::now() + timeout;
        let left = processes(dir);
        if !left.is_empty() {
            tracing::warn!(processes = left.len(), dir = %dir.display(), ?signal, "ending processes that a job left behind");
        }
        for process in left {
            // The only possible error is that it has already ended.
            let _ = kill_process(process, signal);
        }
        while Instant::now() < deadline {
            if processes(dir).is_empty() {
                return;
            }
            sleep(TICK).await;
        }
    }
}

/// Returns the ids of the living processes of the job in `dir`, also if its launcher was killed.
pub fn job_processes(dir: &Path) -> Vec<i32> {
    processes(dir).into_iter().map(|process| process.as_raw_nonzero().get()).collect()
}

/// Returns the processes of the job in `dir`: they and their children have its folder in their environment.
fn processes(dir: &Path) -> Vec<Pid> {
    let mark = [env::NEVA_JOB.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = |id: &i32| {
        // Unreadable ones belong to other users.
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    ids.filter(own).filter_map(Pid::from_raw).collect()
}
