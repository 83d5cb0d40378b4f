//! A profile as a trace in Chrome's Trace Event Format, which Perfetto opens: ranks are processes, threads are threads.

use super::{ProfileSummary, RankProfile};
use crate::profiler::{Details, Span};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};

/// A trace. Field names are those of the format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    display_time_unit: &'static str,
    other_data: &'a ProfileSummary,
    trace_events: Vec<Event>,
}

/// An event. Times are in microseconds.
#[derive(Serialize)]
struct Event {
    name: String,
    ph: &'static str,
    pid: usize,
    tid: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    args: Value,
}

/// Writes the spans of all ranks and the summary.
///
/// # Errors
/// `out` cannot be written.
pub fn write_trace(ranks: &[RankProfile], summary: &ProfileSummary, out: impl Write) -> io::Result<()> {
    let first = ranks.iter().map(|rank| rank.recorded.started_unix_us).min().unwrap_or(0);
    let trace = Trace {
        display_time_unit: "ms",
        other_data: summary,
        trace_events: ranks.iter().flat_map(|rank| events(rank, first)).collect(),
    };
    serde_json::to_writer(out, &trace).map_err(io::Error::from)
}

/// Returns the events of a rank. `first` is the Unix time from which all ranks count.
fn events(rank: &RankProfile, first: u64) -> Vec<Event> {
    let recorded = &rank.recorded;
    let offset = (recorded.started_unix_us - first) as f64;
    let time = |nanoseconds: u64| offset + nanoseconds as f64 / 1e3;
    let event = |name: &str, ph: &'static str, tid: usize, args: Value| Event {
        name: name.to_owned(),
        ph,
        pid: rank.rank,
        tid,
        ts: None,
        dur: None,
        cat: None,
        id: None,
        args,
    };
    let name = match rank.host.as_str() {
        "" => format!("rank {}", rank.rank),
        host => format!("rank {} on {host}", rank.rank),
    };
    let mut events = vec![
        event("process_name", "M", 0, json!({ "name": name })),
        event("process_sort_index", "M", 0, json!({ "sort_index": rank.rank })),
    ];
    for (tid, name) in recorded.threads.iter().enumerate() {
        events.push(event("thread_name", "M", tid, json!({ "name": name })));
        events.push(event("thread_sort_index", "M", tid, json!({ "sort_index": tid })));
    }
    for (index, span) in recorded.spans.iter().enumerate() {
        events.push(Event {
            ts: Some(time(span.start)),
            dur: Some((span.end - span.start) as f64 / 1e3),
            cat: Some(category(span)),
            ..event(&span.name, "X", span.thread, arguments(span))
        });
        if let Details::Collective { group, started, .. } = &span.details
            // It overlaps with work of its thread.
            && span.start > *started
        {
            let in_flight = |ph, at| Event {
                ts: Some(time(at)),
                cat: Some("in flight"),
                id: Some(format!("{}.{index}", rank.rank)),
                ..event(&format!("{} {group}", span.name), ph, span.thread, arguments(span))
            };
            events.push(in_flight("b", *started));
            events.push(in_flight("e", span.end));
        }
    }
    events
}

fn category(span: &Span) -> &'static str {
    match span.details {
        Details::Step(_) => "step",
        Details::Collective { .. } => "collective",
        Details::None | Details::Pass { .. } => "phase",
    }
}

fn arguments(span: &Span) -> Value {
    let processor_ms = span.processor as f64 / 1e6;
    match &span.details {
        Details::None => json!({ "processor_ms": processor_ms }),
        Details::Step(step) => json!({ "step": step, "processor_ms": processor_ms }),
        Details::Pass { microbatch, chunk } => json!({ "microbatch": microbatch, "chunk": chunk, "processor_ms": processor_ms }),
        Details::Collective { group, bytes, started } => {
            json!({ "group": group, "bytes": bytes, "in_flight_us": (span.end - started) as f64 / 1e3 })
        }
    }
}
