//! Reads the output of pods, without following it.

use futures_util::{AsyncBufRead, AsyncBufReadExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use neva_schemas::RunReport;

use super::{cluster::Cluster, line::Line, refusal, render::CONTAINER};
use crate::{error::ExecutorError, executor::LogChunk, kubernetes_error::KubernetesError};

/// Bytes after which a chunk ends. It is large, since each read starts at the beginning of the output.
const CHUNK: usize = 128 << 10;
/// Lines at the end of a log among which the last ones of a rank are searched.
const LAST: i64 = 500;
/// Lines at the end of a log that hold most reports.
const REPORT: i64 = 5000;

/// Returns how the output of a pod is read.
pub(super) fn params() -> LogParams {
    LogParams {
        container: Some(CONTAINER.to_owned()),
        ..LogParams::default()
    }
}

/// Opens the output of a pod; `None` if the pod is gone, or its container has not started.
pub(super) async fn open(cluster: &Cluster, pod: &str, params: &LogParams) -> Result<Option<impl AsyncBufRead + use<>>, ExecutorError> {
    let api = cluster.api::<Pod>();
    match cluster.ask(api.log_stream(pod, params)).await {
        Ok(stream) => Ok(Some(Box::pin(stream))),
        Err(ExecutorError::Kubernetes(KubernetesError::Refused { is_input: true, words, .. })) => {
            tracing::debug!(pod, words, "no output");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads a line with its end; false at the end of the output.
pub(super) async fn read_line(
    cluster: &Cluster,
    stream: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> Result<bool, ExecutorError> {
    line.clear();
    let read = stream.read_until(b'\n', line).await;
    read.map(|length| length > 0).map_err(|source| ExecutorError::Connection {
        place: cluster.place.clone(),
        source: std::io::Error::new(source.kind(), refusal::words(&source)),
    })
}

/// Reads a chunk of the output of a rank from byte `offset` on, of its pods in order.
pub(super) async fn chunk(cluster: &Cluster, pods: &[String], rank: u32, offset: u64) -> Result<LogChunk, ExecutorError> {
    let (mut position, mut bytes, mut line) = (0, Vec::new(), Vec::new());
    for pod in pods {
        let Some(mut stream) = open(cluster, pod, &params()).await? else {
            continue;
        };
        while bytes.len() < CHUNK && read_line(cluster, &mut stream, &mut line).await? {
            if let Line::Rank(of, text) = Line::parse(&line)
                && of == rank
            {
                let skip = usize::try_from(offset.saturating_sub(position))
                    .unwrap_or(usize::MAX)
                    .min(text.len());
                bytes.extend_from_slice(&text[skip..]);
                position += text.len() as u64;
            }
        }
    }
    Ok(LogChunk {
        next: offset + bytes.len() as u64,
        bytes,
    })
}

/// Reads the last lines of a rank in a pod.
pub(super) async fn last_lines(cluster: &Cluster, pod: &str, rank: u32) -> Result<Vec<String>, ExecutorError> {
    let params = LogParams {
        tail_lines: Some(LAST),
        ..params()
    };
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    let Some(mut stream) = open(cluster, pod, &params).await? else {
        return Ok(lines);
    };
    while read_line(cluster, &mut stream, &mut line).await? {
        if let Line::Rank(of, text) = Line::parse(&line)
            && of == rank
        {
            lines.push(String::from_utf8_lossy(text).trim_end().to_owned());
        }
    }
    Ok(lines)
}

/// Reads the report at the end of the output of the first pod.
pub(super) async fn report(cluster: &Cluster, pod: &str) -> Result<Option<RunReport>, ExecutorError> {
    for tail_lines in [Some(REPORT), None] {
        let params = LogParams { tail_lines, ..params() };
        let Some(mut stream) = open(cluster, pod, &params).await? else {
            return Ok(None);
        };
        let (mut report, mut line, mut others) = (Vec::new(), Vec::new(), 0);
        while read_line(cluster, &mut stream, &mut line).await? {
            match Line::parse(&line) {
                Line::Report(text) => report.extend_from_slice(text),
                Line::Rank(..) | Line::Note(_) => others += 1,
            }
        }
        // A long report fills the last lines: its beginning is missing.
        if tail_lines.is_some() && others == 0 && !report.is_empty() {
            continue;
        }
        if report.is_empty() {
            return Ok(None);
        }
        return Ok(serde_json::from_slice(&report).map(Some)?);
    }
    Ok(None)
}
