//! Errors of requests: what is lost, refused or wrong, and what to type instead.

use std::{error::Error, io};

use kube::core::Status;

use crate::{error::ExecutorError, kubernetes_error::KubernetesError};

/// Returns an error with its causes on one line, none of them twice.
pub(super) fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// Returns true if a repetition may succeed: the API server is back, or the token in the kubeconfig was renewed.
pub(super) fn is_lost(error: &ExecutorError) -> bool {
    error.is_connection_lost() || matches!(error, ExecutorError::Kubernetes(KubernetesError::Unauthorized { .. }))
}

/// Returns true for a refusal with one of these words.
pub(super) fn has_words(error: &ExecutorError, known: &[&str]) -> bool {
    let ExecutorError::Kubernetes(KubernetesError::Refused { words, .. }) = error else {
        return false;
    };
    known.iter().any(|known| words.contains(known))
}

/// Returns the error of a request.
pub(super) fn error(place: &str, error: kube::Error) -> ExecutorError {
    match error {
        kube::Error::Api(status) => refused(place, &status),
        kube::Error::Auth(error) => KubernetesError::Unauthorized {
            place: place.to_owned(),
            words: words(&error),
        }
        .into(),
        error => {
            let words = words(&error);
            // A repetition does not mend a certificate.
            if words.contains("invalid peer certificate") || words.contains("UnknownIssuer") {
                return KubernetesError::Config {
                    words: format!("{place}: {words}"),
                }
                .into();
            }
            if words.contains("auth error") || words.contains("exec-plugin") {
                return KubernetesError::Unauthorized {
                    place: place.to_owned(),
                    words,
                }
                .into();
            }
            ExecutorError::Connection {
                place: place.to_owned(),
                source: io::Error::other(words),
            }
        }
    }
}

fn refused(place: &str, status: &Status) -> ExecutorError {
    let words = match status.message.as_str() {
        "" => format!("{} ({})", status.reason, status.code),
        message => message.to_owned(),
    };
    let is_quota = words.contains("exceeded quota");
    match status.code {
        401 => KubernetesError::Unauthorized {
            place: place.to_owned(),
            words,
        }
        .into(),
        403 if !is_quota && (words.contains("cannot ") || words.contains("User \"")) => KubernetesError::Forbidden { words }.into(),
        // The server is overloaded, starts, or has lost its storage for a moment.
        429 | 502..=504 => lost(place, words),
        500 if ["etcd", "connection refused", "timed out", "rate limit"]
            .iter()
            .any(|known| words.contains(known)) =>
        {
            lost(place, words)
        }
        code => KubernetesError::Refused {
            place: place.to_owned(),
            help: help(&words).map(str::to_owned),
            words,
            is_input: matches!(code, 400 | 403 | 404 | 413 | 422),
        }
        .into(),
    }
}

fn lost(place: &str, words: String) -> ExecutorError {
    ExecutorError::Connection {
        place: place.to_owned(),
        source: io::Error::other(words),
    }
}

/// Returns what to type instead.
fn help(words: &str) -> Option<&'static str> {
    const HELP: &[(&str, &str)] = &[
        (
            "exceeded quota",
            "ask for less with `executor.requests` and `executor.limits`, or wait for your other jobs: `kubectl describe quota`",
        ),
        (
            "namespaces \"",
            "set `executor.namespace` to one that `kubectl get namespaces` lists",
        ),
        (
            "violates PodSecurity",
            "set `executor.security_context` and `executor.container_security_context` as the policy of the namespace requires",
        ),
        (
            "priority class",
            "set `executor.priority_class` to one that `kubectl get priorityclasses` lists",
        ),
        (
            "PriorityClass",
            "set `executor.priority_class` to one that `kubectl get priorityclasses` lists",
        ),
        (
            "must be less than or equal to",
            "set `executor.requests` to at most `executor.limits`",
        ),
        (
            "Limit must be set for non overcommitable resources",
            "set the resource in `executor.limits` too",
        ),
        ("unknown field", "compare `executor.overrides` with `kubectl explain job.spec`"),
        ("is invalid", "compare the executor's settings with `neva-run render`"),
    ];
    HELP.iter().find(|(known, _)| words.contains(known)).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of Kubernetes 1.36.
    #[test]
    fn refusals_say_what_to_type() {
        for (code, message, class, help) in [
            (401, "Unauthorized", 3, "kubectl auth whoami"),
            (
                403,
                "jobs.batch is forbidden: User \"alice\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"x\"",
                3,
                "neva-run doctor --executor kubernetes",
            ),
            (
                403,
                "configmaps \"x\" is forbidden: exceeded quota: small, requested: count/configmaps=1",
                2,
                "kubectl describe quota",
            ),
            (404, "namespaces \"nowhere\" not found", 2, "executor.namespace"),
            (
                422,
                "Job.batch \"x\" is invalid: spec.template.spec.containers[0].image: Required value",
                2,
                "neva-run render",
            ),
            (500, "something new", 3, ""),
        ] {
            let error = refused("the API server k8s:443", &Status::failure(message, "").with_code(code));
            assert_eq!(error.exit_code(), class, "{message}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.help().unwrap_or_default().contains(help), "{message}: {error:?}");
        }
        for (code, message) in [(503, "apiserver is shutting down"), (500, "etcdserver: leader changed"), (429, "")] {
            assert!(
                refused("x", &Status::failure(message, "").with_code(code)).is_connection_lost(),
                "{message}"
            );
        }
    }
}
