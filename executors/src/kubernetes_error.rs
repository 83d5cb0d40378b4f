//! Errors of Kubernetes, with its own words.

use neva_schemas::{ExitClass, exit_class};

/// An error of Kubernetes that a repetition does not mend. An API server that cannot be reached is
/// `ExecutorError::Connection` instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// The kubeconfig cannot be used.
    #[error("cannot connect to Kubernetes: {words}")]
    Config {
        /// What is wrong.
        words: String,
    },
    /// The API server does not accept the credentials: a token has expired.
    #[error("{place} does not accept the credentials (Unauthorized): {words}")]
    Unauthorized {
        /// The API server.
        place: String,
        /// Its words.
        words: String,
    },
    /// The user may not do this.
    #[error("{words}")]
    Forbidden {
        /// Words of the API server.
        words: String,
    },
    /// The API server refused the objects.
    #[error("{place} refused the job: {words}")]
    Refused {
        /// The API server.
        place: String,
        /// Its words.
        words: String,
        /// What to type instead.
        help: Option<String>,
        /// True if the settings of the executor are wrong.
        is_input: bool,
    },
}

impl KubernetesError {
    /// Returns the launcher's exit code for this error.
    pub fn exit_code(&self) -> ExitClass {
        match self {
            Self::Refused { is_input: true, .. } => exit_class::INPUT,
            Self::Config { .. } | Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::Refused { .. } => exit_class::CLUSTER,
        }
    }

    /// Returns a suggested fix, if there is one.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Config { .. } => "name a kubeconfig with `KUBECONFIG` or the executor's `kubeconfig`, and one of its contexts with \
                                    `context`; `kubectl config get-contexts` lists them"
                .to_owned(),
            Self::Unauthorized { .. } => "log in again: renew the token or certificate in your kubeconfig, or run the login of your \
                                          cluster; `kubectl auth whoami` tells whether it is accepted"
                .to_owned(),
            Self::Forbidden { .. } => "ask an administrator for the permission; `neva-run doctor --executor kubernetes` lists all that \
                                       are needed"
                .to_owned(),
            Self::Refused { help, .. } => return help.clone(),
        })
    }
}
