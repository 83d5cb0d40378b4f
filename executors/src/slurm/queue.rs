//! Jobs as `squeue` and `sacct` report them.

use super::{
    command::{self, tool},
    handle::is_job_id,
    nodes::nodes,
};
use crate::{
    error::ExecutorError,
    tunnel::{CommandEnd, Tunnel},
};

/// A job as Slurm knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueRow {
    /// Its number, as `12`, `12_3` or `12+1`.
    pub(super) id: String,
    /// Slurm's name of its state: `RUNNING`.
    pub(super) state: String,
    /// Slurm's reason: `Resources`, `NonZeroExitCode`; empty for none.
    pub(super) reason: String,
    /// Number of requeues.
    pub(super) restarts: u32,
    /// Exit code of the batch script.
    pub(super) code: i32,
    /// Signal that ended the batch script; 0 for none.
    pub(super) signal: i32,
    /// Start time in seconds since the epoch; an estimate for a pending job.
    pub(super) start: Option<u64>,
    /// Its nodes.
    pub(super) nodes: Vec<String>,
}

/// Fields of squeue. The reason comes last, since it may hold any character.
const QUEUE_FIELDS: &str = "JobArrayID:|,State:|,RestartCnt:|,exit_code:|,StartTime:|,NodeList:|,Reason:|";
const QUEUE_COLUMNS: usize = 7;

/// Fields of sacct.
const ACCOUNTING_FIELDS: &str = "jobid,state%40,exitcode,start,nodelist";
const ACCOUNTING_COLUMNS: usize = 5;

/// Queries jobs of the controller in one call. Jobs that it has forgotten are absent.
///
/// # Errors
/// The controller cannot be reached, or squeue fails.
pub(super) async fn queue(tunnel: &dyn Tunnel, ids: &[&str]) -> Result<Vec<QueueRow>, ExecutorError> {
    let command = tool([
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        "--Format",
        QUEUE_FIELDS,
        "--jobs",
        &ids.join(","),
    ]);
    let output = tunnel.run(&command).await?;
    // A single job that it does not know is an error; one of several is absent.
    if output.end == CommandEnd::Exit(1) && command::words(&output.stderr).contains("Invalid job id specified") {
        return Ok(Vec::new());
    }
    if !output.is_success() {
        return Err(command::failure(&tunnel.place(), "squeue", &output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(queue_row).collect())
}

/// Queries jobs of the accounting database in one call. `None` if the cluster has none.
///
/// # Errors
/// The database cannot be reached.
pub(super) async fn accounting(tunnel: &dyn Tunnel, ids: &[&str]) -> Result<Option<Vec<QueueRow>>, ExecutorError> {
    let list = ids.join(",");
    let command = tool([
        "sacct",
        "--allocations",
        "--duplicates",
        "--noheader",
        "--parsable2",
        "--format",
        ACCOUNTING_FIELDS,
        "--jobs",
        &list,
    ]);
    let output = match tunnel.run(&command).await {
        Err(error) if error.is_connection_lost() => return Err(error),
        // Without accounting the program may be missing too.
        Err(_) => return Ok(None),
        Ok(output) => output,
    };
    if !output.is_success() {
        let error = command::failure(&tunnel.place(), "sacct", &output);
        return if error.is_connection_lost() { Err(error) } else { Ok(None) };
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut rows: Vec<QueueRow> = Vec::new();
    for row in text.lines().filter_map(accounting_row) {
        // A requeued job has a line for each start, and the last one counts.
        match rows.iter_mut().find(|known| known.id == row.id) {
            Some(known) => {
                let restarts = known.restarts + 1;
                *known = QueueRow { restarts, ..row };
            }
            None => rows.push(row),
        }
    }
    Ok(Some(rows))
}

fn queue_row(line: &str) -> Option<QueueRow> {
    let columns: Vec<&str> = line.trim().splitn(QUEUE_COLUMNS, '|').map(str::trim).collect();
    let [id, state, restarts, status, start, list, reason] = columns.try_into().ok()?;
    // A wait status: exit code in the second byte, signal in the low bits.
    let status: i32 = status.parse().unwrap_or(0);
    Some(QueueRow {
        id: id.to_owned(),
        state: state.to_owned(),
        reason: reason_text(reason.trim_end_matches('|')),
        restarts: restarts.parse().unwrap_or(0),
        code: if status & 0x7f == 0 { (status >> 8) & 0xff } else { 0 },
        signal: status & 0x7f,
        start: start.parse().ok(),
        nodes: nodes(list),
    })
}

fn accounting_row(line: &str) -> Option<QueueRow> {
    let columns: Vec<&str> = line.trim().splitn(ACCOUNTING_COLUMNS, '|').map(str::trim).collect();
    let [id, state, exit, start, list] = columns.try_into().ok()?;
    if !is_job_id(id) && !id.contains('+') {
        return None;
    }
    let (code, signal) = exit.split_once(':')?;
    Some(QueueRow {
        id: id.to_owned(),
        // `CANCELLED by 0` names the user who did it.
        state: state.split_whitespace().next()?.to_owned(),
        reason: String::new(),
        restarts: 0,
        code: code.parse().unwrap_or(0),
        signal: signal.parse().unwrap_or(0),
        start: start.parse().ok(),
        nodes: nodes(list),
    })
}

/// Returns a reason; empty for Slurm's words for none.
fn reason_text(reason: &str) -> String {
    let reason = reason.trim().trim_start_matches('(').trim_end_matches(')');
    match reason {
        "None" | "null" | "N/A" => String::new(),
        // `scontrol` writes these as one word.
        "job requeued in held state" | "launch failed requeued held" => reason.replace(' ', "_"),
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_squeue_are_read() {
        let row = queue_row("12_3|FAILED|1|36608|1796044543|n[1-2]|NonZeroExitCode|").unwrap();
        let expected = QueueRow {
            id: "12_3".into(),
            state: "FAILED".into(),
            reason: "NonZeroExitCode".into(),
            restarts: 1,
            code: 143,
            signal: 0,
            start: Some(1_796_044_543),
            nodes: vec!["n1".into(), "n2".into()],
        };
        assert_eq!(row, expected);
        let lost = queue_row("4|FAILED|0|4021|N/A||JobLaunchFailure|").unwrap();
        assert_eq!((lost.code, lost.signal, lost.start), (0, 53, None));
        let odd = queue_row("4|PENDING|0|0|N/A||(Nodes required for job are DOWN | DRAINED)|").unwrap();
        assert_eq!(odd.reason, "Nodes required for job are DOWN | DRAINED");
        assert_eq!(queue_row("4|PENDING|0|0|N/A||None|").unwrap().reason, "");
        assert_eq!(queue_row("slurm: something else"), None);
    }

    #[test]
    fn rows_of_sacct_are_read() {
        let row = accounting_row("12|CANCELLED by 0|0:15|1796044543|n1").unwrap();
        assert_eq!((row.state.as_str(), row.code, row.signal), ("CANCELLED", 0, 15));
        assert_eq!(accounting_row("12.batch|FAILED|1:0|Unknown|n1"), None);
    }
}
