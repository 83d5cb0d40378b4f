//! Credentials for an MLflow server.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use neva_schemas::env;
use ureq::http::HeaderValue;

/// Credentials for an MLflow server. They are never printed: not in logs, errors or `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MlflowCredentials(Kind);

#[derive(Clone, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    None,
    Token(String),
    Password {
        username: String,
        password: String,
    },
}

impl MlflowCredentials {
    /// Reads MLflow's variables through `lookup`. As in MLflow, a user name with a password takes precedence over a token; one
    /// without the other is ignored.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name| lookup(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let password = read(env::MLFLOW_TRACKING_USERNAME).zip(read(env::MLFLOW_TRACKING_PASSWORD));
        Self(match (password, read(env::MLFLOW_TRACKING_TOKEN)) {
            (Some((username, password)), _) => Kind::Password { username, password },
            (None, Some(token)) => Kind::Token(token),
            (None, None) => Kind::None,
        })
    }

    /// Returns the value of the header `Authorization`, or `None` for a token with characters invalid in a header.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let text = match &self.0 {
            Kind::None => return None,
            Kind::Token(token) => format!("Bearer {token}"),
            Kind::Password { username, password } => format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))),
        };
        let Ok(mut value) = HeaderValue::from_str(&text) else {
            tracing::warn!(
                "{} contains characters that are invalid in an HTTP header: it is not sent",
                env::MLFLOW_TRACKING_TOKEN
            );
            return None;
        };
        // The HTTP client logs headers.
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for MlflowCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::None => "MlflowCredentials(none)",
            Kind::Token(_) => "MlflowCredentials(token)",
            Kind::Password { .. } => "MlflowCredentials(password)",
        })
    }
}
