//! Errors of requests to the Docker API, and what to type instead.

use std::io;

use bollard::errors::Error;
use serde_json::Value;

use crate::{container_error::ContainerError, error::ExecutorError};

/// Returns the error of a failed request, and that of a lost connection for one that did not arrive.
pub(super) fn error(place: &str, action: &'static str, error: Error) -> ExecutorError {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            let words = words(&message);
            match status_code {
                400 | 404 | 409 => ContainerError::Refused { help: help(&words), words },
                _ if help(&words).is_some() => ContainerError::Refused { help: help(&words), words },
                _ => ContainerError::Failed { action, words },
            }
            .into()
        }
        Error::DockerStreamError { error } => ContainerError::Failed { action, words: error }.into(),
        Error::JsonDataError { message, .. } => ContainerError::Failed { action, words: message }.into(),
        Error::SocketNotFoundError(_) => lost(place, io::ErrorKind::NotFound.into()),
        Error::RequestTimeoutError => lost(place, io::ErrorKind::TimedOut.into()),
        Error::IOError { err } => lost(place, err),
        other => {
            let mut causes = vec![other.to_string()];
            let mut cause = std::error::Error::source(&other);
            while let Some(next) = cause {
                causes.push(next.to_string());
                cause = next.source();
            }
            causes.dedup();
            lost(place, io::Error::other(causes.join(": ")))
        }
    }
}

fn lost(place: &str, source: io::Error) -> ExecutorError {
    ExecutorError::Connection {
        place: place.to_owned(),
        source,
    }
}

/// Returns a runtime's words as one line.
pub(super) fn words(message: &str) -> String {
    // Podman answers with an object in places where Docker answers with a text.
    let cause = serde_json::from_str::<Value>(message)
        .ok()
        .and_then(|value| Some(value.get("message").or_else(|| value.get("cause"))?.as_str()?.to_owned()));
    let text = cause.unwrap_or_else(|| message.to_owned());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns what to type instead, from a runtime's words.
fn help(words: &str) -> Option<String> {
    let lower = words.to_ascii_lowercase();
    let any = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    Some(
        if any(&["could not select device driver", "nvidia-container-cli", "unresolvable cdi devices"]) {
            "install the NVIDIA Container Toolkit and run `nvidia-ctk runtime configure --runtime=docker`, or add \
             `--set executor.num_gpus=0`"
        } else if any(&["unknown or invalid runtime name", "unknown runtime", "runtime not found"]) {
            "`docker info` lists the runtimes; remove `runtime` from the executor, or name one of them"
        } else if any(&["/bin/sh"]) && any(&["no such file", "not found"]) {
            "the image has no shell `/bin/sh`, which starts the ranks: use another image"
        } else if any(&["network"]) && any(&["not found", "unable to find", "netavark", "cni"]) {
            "add `--set executor.network=host`, or name another network"
        } else if any(&["no such file or directory", "bind source path does not exist"]) {
            "a folder of `executor.volumes` does not exist on this machine"
        } else if any(&["rlimit", "operation not permitted"]) {
            "the runtime may not raise a limit: set lower `executor.ulimits`, or change the runtime's `default_ulimits`"
        } else if any(&["unable to find user", "no matching entries in passwd"]) {
            "the image does not know the user: write numbers, as `--set executor.user=1000:1000`"
        } else {
            return None;
        }
        .to_owned(),
    )
}
