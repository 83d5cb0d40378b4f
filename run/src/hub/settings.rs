//! Settings of the hub in the environment, with the variables of `huggingface_hub`.

use std::{fmt, fs, path::PathBuf, time::Duration};

use neva_layout::HubCache;
use neva_schemas::env;

use super::error::HubError;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Timeout of a connection without data.
const STALL: Duration = Duration::from_secs(60);

/// Server, token and cache. The token is never printed.
#[derive(Clone)]
pub(crate) struct HubSettings {
    /// Address of the server, without a trailing slash.
    pub(super) endpoint: String,
    /// Token for gated and private models.
    pub(super) token: Option<String>,
    /// Requests are forbidden.
    pub(super) offline: bool,
    /// The cache.
    pub(super) cache: HubCache,
    /// Timeout of a connection without data.
    pub(super) stall: Duration,
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("offline", &self.offline)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl HubSettings {
    /// Reads the settings; `lookup` returns environment variables.
    ///
    /// # Errors
    /// The address of the server is invalid.
    pub(crate) fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let refused = |reason| HubError::Variable {
            variable: env::HF_ENDPOINT,
            reason,
        };
        let endpoint = set(env::HF_ENDPOINT).unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        match host {
            None => return Err(refused("is not an address: it must begin with https:// or http://")),
            Some(host) if host.split('/').next().is_some_and(|host| host.contains('@')) => {
                return Err(refused("contains a user: use a token in HF_TOKEN"));
            }
            Some(_) => {}
        }
        let is_on = |name: &str| set(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        let file = set(env::HF_TOKEN_PATH).map_or_else(|| HubCache::home(&lookup).join("token"), PathBuf::from);
        let named = set(env::HF_TOKEN).or_else(|| set(env::HUGGING_FACE_HUB_TOKEN));
        let token = named.or_else(|| fs::read_to_string(file).ok());
        Ok(Self {
            endpoint,
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: is_on(env::HF_HUB_OFFLINE) || is_on(env::TRANSFORMERS_OFFLINE),
            cache: HubCache::locate(&lookup),
            stall: STALL,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_huggingface_hub() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), " of-file\n").unwrap();
        let home = dir.path().display().to_string();
        let read = |variables: &[(&str, &str)]| {
            HubSettings::read(|name| {
                let own = variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
                own.or_else(|| (name == env::HF_HOME).then(|| home.clone()))
            })
        };
        let settings = read(&[]).unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.token.as_deref()), (ENDPOINT, Some("of-file")));
        assert!(!settings.offline);
        assert!(!format!("{settings:?}").contains("of-file"));
        let settings = read(&[("HF_TOKEN", "own"), ("HF_ENDPOINT", "http://mirror:1/"), ("HF_HUB_OFFLINE", "1")]).unwrap();
        assert_eq!(
            (settings.endpoint.as_str(), settings.token.as_deref()),
            ("http://mirror:1", Some("own"))
        );
        assert!(settings.offline);
        for endpoint in ["mirror", "http://me:secret@mirror"] {
            let error = read(&[("HF_ENDPOINT", endpoint)]).unwrap_err().to_string();
            assert!(error.starts_with("HF_ENDPOINT") && !error.contains("secret"), "{error}");
        }
    }
}
