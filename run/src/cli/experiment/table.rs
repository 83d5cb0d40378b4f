//! Experiments as text and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use indexmap::IndexMap;
use jiff::{Timestamp, tz::TimeZone};
use neva_executors::{JobState, JobStatus, Submission};
use serde_json::{Value, json};

use crate::{
    experiment::{Comparison, ExperimentReport, GitState, Row, Status, TaskReport, TaskState},
    job::schedule_status,
};

/// Formats a list of experiments, one per line.
pub(super) fn rows(rows: &[Row]) -> Vec<String> {
    let lines = rows.iter().map(|row| {
        let tasks = format!("{} task{}", row.tasks, if row.tasks == 1 { "" } else { "s" });
        vec![row.id.clone(), row.state.to_owned(), tasks, time(row.created)]
    });
    columns(lines.collect())
}

/// Formats an experiment and its tasks.
pub(super) fn status(status: &Status, git: Option<&GitState>, jobs: &Jobs) -> String {
    let mut text = format!("{}: {}\n", status.report.id, status.name());
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    fact("created", &time(status.record.created));
    fact("by", &format!("neva-run {}", status.record.version));
    if let Some(old) = &status.record.rerun_of {
        fact("rerun of", old);
    }
    fact("in", &status.record.working_directory.display().to_string());
    if let Some(GitState {
        commit: Some(commit),
        dirty,
        ..
    }) = git
    {
        let commit = commit.get(..12).unwrap_or(commit);
        fact(
            "commit",
            &format!("{commit}{}", if *dirty { ", and the changes in git.diff" } else { "" }),
        );
    }
    fact("folder", &status.report.dir.display().to_string());
    text.push_str(&tasks(&status.report, !status.alive, jobs).join("\n"));
    text
}

/// Status of the jobs that a cluster schedules, by task.
type Jobs = BTreeMap<String, Result<JobStatus, String>>;

pub(super) fn status_json(status: &Status, git: Option<&GitState>, jobs: &Jobs) -> Value {
    let mut value = json!({
        "id": status.report.id,
        "state": status.name(),
        "class": status.class,
        "alive": status.alive,
        "created": status.record.created,
        "version": status.record.version,
        "rerun_of": status.record.rerun_of,
        "working_directory": status.record.working_directory,
        "dir": status.report.dir,
        "git": git,
        "tasks": status.report.tasks,
        "damaged_events": status.broken_events,
    });
    if !jobs.is_empty() {
        let job = |status: &Result<JobStatus, String>| match status {
            Ok(status) => json!(status),
            Err(reason) => json!({ "error": reason }),
        };
        value["jobs"] = jobs.iter().map(|(name, status)| (name.clone(), job(status))).collect();
    }
    value
}

/// Formats the end of an experiment.
pub(super) fn end(report: &ExperimentReport) -> String {
    let word = if report.exit_code() == 0 { "done" } else { "failed" };
    let mut text = tasks(report, false, &Jobs::new()).join("\n");
    let _ = write!(text, "\n{word}: {}\n  folder      {}", report.id, report.dir.display());
    text
}

/// Returns the failed tasks, one per line; none for a single one, which the error names.
pub(super) fn failures(report: &ExperimentReport) -> Vec<String> {
    let failed = report.tasks.iter().filter(|task| matches!(task.state, TaskState::Failed(_)));
    let lines: Vec<_> = failed.map(|task| format!("{}: {}", task.name, task.state)).collect();
    if lines.len() > 1 { lines } else { Vec::new() }
}

/// Formats a dry run.
pub(super) fn plan(planned: &IndexMap<String, Submission>) -> String {
    let mut text = String::new();
    for (name, submission) in planned {
        let _ = writeln!(text, "# {name}, in {}", submission.dir.display());
        for process in submission.processes() {
            let _ = writeln!(text, "{process}");
        }
        if let Some(script) = submission.batch_text() {
            text.push_str(script);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Formats a comparison, one line for each difference and each metric.
pub(super) fn comparison(comparison: &Comparison) -> Vec<String> {
    // Without locations: both sides come from the store.
    let value = |side: &Option<crate::config::Side>| side.as_ref().map_or_else(|| "(absent)".to_owned(), |side| side.value.clone());
    let differences = comparison.differences.iter();
    let mut lines: Vec<_> = differences
        .map(|it| format!("{}: {} -> {}", it.path, value(&it.left), value(&it.right)))
        .collect();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value}"));
    let metrics = comparison.metrics.iter();
    let metrics = metrics.map(|metric| vec![metric.task.clone(), metric.name.clone(), number(metric.a), number(metric.b)]);
    lines.extend(columns(metrics.collect()));
    lines
}

pub(super) fn comparison_json(comparison: &Comparison) -> Value {
    let side = |side: &Option<crate::config::Side>| side.as_ref().map(|side| side.value.clone());
    let differences = comparison.differences.iter();
    let differences = differences.map(|it| json!({ "path": it.path.to_string(), "a": side(&it.left), "b": side(&it.right) }));
    json!({ "differences": differences.collect::<Vec<_>>(), "metrics": comparison.metrics })
}

/// Formats tasks, one per line. With `orphaned`, running tasks have no launcher: those on this machine have ended, and a
/// cluster goes on with its own.
fn tasks(report: &ExperimentReport, orphaned: bool, jobs: &Jobs) -> Vec<String> {
    let line = |task: &TaskReport| {
        let job = jobs.get(&task.name);
        let state = match (&task.state, job) {
            (TaskState::Running, Some(Ok(status))) => status.state.name().to_owned(),
            (TaskState::Running, Some(Err(_))) => "unknown".to_owned(),
            (TaskState::Running, None) if orphaned => "interrupted".to_owned(),
            (state, _) => state.name().to_owned(),
        };
        let duration = task.duration_ms().map_or_else(String::new, seconds);
        let detail = match (job, &task.job) {
            // The launcher that would have recorded it is gone.
            (
                Some(Ok(JobStatus {
                    state: JobState::Failed(failure),
                    ..
                })),
                _,
            ) if task.state == TaskState::Running => failure.to_string(),
            (Some(Ok(status)), Some(job)) => schedule_status(job, status).unwrap_or_else(|| detail(task)),
            (Some(Err(reason)), _) => reason.clone(),
            _ => detail(task),
        };
        vec![format!("  {}", task.name), state, duration, detail]
    };
    columns(report.tasks.iter().map(line).collect())
}

fn detail(task: &TaskReport) -> String {
    match &task.state {
        TaskState::Failed(failure) => failure.to_string(),
        TaskState::Skipped(reason) => reason.clone(),
        _ => match &task.report {
            Some(report) => report.summary(),
            None if task.attempts > 1 => format!("attempt {}", task.attempts),
            None => String::new(),
        },
    }
}

pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn time(unix_ms: u64) -> String {
    let stamp = i64::try_from(unix_ms)
        .ok()
        .filter(|ms| *ms > 0)
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(
        || "-".to_owned(),
        |stamp| {
            stamp
                .to_zoned_datetime(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

/// Aligns the columns of lines.
fn columns(lines: Vec<Vec<String>>) -> Vec<String> {
    let mut widths = Vec::<usize>::new();
    for line in &lines {
        for (index, cell) in line.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(index) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let padded = |line: Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.into_iter().map(padded).collect()
}
