//! Processes that a job left behind when its supervisor was killed. Nobody will end them, and a job that is submitted
//! again would run beside them.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use neva_schemas::env;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How long they may take to save and leave.
const GRACE: Duration = Duration::from_secs(2);

/// How long they may take to be gone once they are killed.
const DEADLINE: Duration = Duration::from_secs(5);

const TICK: Duration = Duration::from_millis(5);

/// Ends what is left of the job in `dir`, and waits until it is gone: SIGTERM, then SIGKILL.
pub(super) async fn end(dir: &Path) {
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, DEADLINE)] {
        let deadline = Instant::now() + patience;
        let left = processes(dir);
        if !left.is_empty() {
            tracing::warn!(processes = left.len(), dir = %dir.display(), ?signal, "ending what a job left behind");
        }
        for process in left {
            // The only error there can be is that it has ended since.
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

/// The processes of the job in `dir`: they, and what they started, have its folder in their environment.
fn processes(dir: &Path) -> Vec<Pid> {
    let mark = [env::NEVA_JOB.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = |id: &i32| {
        // What may not be read is somebody else's.
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    ids.filter(own).filter_map(Pid::from_raw).collect()
}
