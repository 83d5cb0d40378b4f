//! Requests to the hub, with redirects, tokens and retries.

use std::time::Duration;

use neva_layout::HubAddress;
use neva_schemas::env;
use ureq::{
    Agent, Body,
    http::{HeaderValue, Response, StatusCode, header},
    tls::{RootCerts, TlsConfig},
};

use super::{Notice, error::HubError, files::is_hash, settings::HubSettings};

/// Timeout of name resolution and of a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Timeout of the body of one reply.
const LONGEST_BODY: Duration = Duration::from_secs(600);
/// Number of tries without progress before an error.
const TRIES: u32 = 4;
/// Wait after the first try; it doubles with each try.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest `Retry-After` that is respected.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Maximum number of redirects of one request.
const REDIRECTS: usize = 10;
/// Maximum size of a list of files in bytes.
const LONGEST_LISTING: u64 = 64 << 20;

/// Client of a server, with its token.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    authorization: Option<HeaderValue>,
}

/// A reply with content.
pub(super) struct Reply {
    pub(super) response: Response<Body>,
    /// Hash of the file, if the server sent one.
    pub(super) hash: Option<String>,
    /// Size of the whole file in bytes, if the server sent it.
    pub(super) size: Option<u64>,
}

/// Failure of a request.
pub(super) enum Failure {
    /// A temporary failure: try again after `wait`.
    Temporary { reason: String, wait: Option<Duration> },
    /// The requested range is beyond the end of the file.
    Range,
    /// A permanent failure.
    Permanent(HubError),
}

/// Counter of the tries of a request.
pub(super) struct Tries {
    url: String,
    failed: u32,
}

impl Tries {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            failed: 0,
        }
    }

    /// Resets the counter after progress.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Counts a failed try, and waits before the next one.
    ///
    /// # Errors
    /// It was the last try.
    pub(super) fn again(&mut self, reason: String, wait: Option<Duration>, notice: Notice<'_>) -> Result<(), HubError> {
        self.failed += 1;
        if self.failed >= TRIES {
            return Err(HubError::Down {
                url: self.url.clone(),
                reason,
                tries: self.failed,
            });
        }
        let own = FIRST_WAIT * 2_u32.pow(self.failed - 1);
        let wait = wait.map_or(own, |wait| wait.clamp(own, LONGEST_WAIT));
        notice(&format!("{}: {reason}; retrying in {:.1} s", self.url, wait.as_secs_f64()));
        #[expect(clippy::disallowed_methods, reason = "the wait that the server asks for, at most LONGEST_WAIT")]
        std::thread::sleep(wait);
        Ok(())
    }
}

impl Client {
    /// Creates a client.
    ///
    /// # Errors
    /// The token has invalid characters.
    pub(super) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        // The certificates of the system: a mirror in a company often has a private one.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(settings.stall))
            .timeout_recv_response(Some(settings.stall))
            .timeout_per_read(Some(settings.stall))
            // A longer download is resumed by another request.
            .timeout_recv_body(Some(LONGEST_BODY))
            .max_redirects(0)
            .http_status_as_error(false)
            .tls_config(tls)
            .user_agent(concat!("neva-run/", env!("CARGO_PKG_VERSION")))
            .build();
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| HubError::Variable {
                variable: env::HF_TOKEN,
                reason: "contains characters that are invalid in a token",
            })?;
            value.set_sensitive(true);
            Ok::<_, HubError>(value)
        });
        Ok(Self {
            agent: agent.into(),
            endpoint: settings.endpoint.clone(),
            authorization: authorization.transpose()?,
        })
    }

    /// Returns the address of the list of files of a model.
    pub(super) fn listing_url(&self, address: &HubAddress) -> String {
        let revision = address.revision().replace('/', "%2F");
        format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, address.repository)
    }

    /// Returns the address of a file.
    pub(super) fn file_url(&self, address: &HubAddress, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, address.repository, escaped(file))
    }

    /// Requests a text.
    pub(super) fn text(&self, url: &str, address: &HubAddress, notice: Notice<'_>) -> Result<String, HubError> {
        let mut tries = Tries::new(url);
        loop {
            let read = self.get(url, 0).and_then(|mut reply| {
                let body = reply.response.body_mut().with_config().limit(LONGEST_LISTING).lossy_utf8(true);
                body.read_to_string().map_err(|error| Failure::Temporary {
                    reason: error.to_string(),
                    wait: None,
                })
            });
            match read {
                Ok(text) => return Ok(text),
                Err(Failure::Temporary { reason, wait }) => tries.again(reason, wait, notice)?,
                Err(Failure::Range) => tries.again("the range is refused".to_owned(), None, notice)?,
                Err(Failure::Permanent(error)) => return Err(with_address(error, address)),
            }
        }
    }

    /// Requests the bytes of `url` from `offset` on.
    pub(super) fn get(&self, url: &str, offset: u64) -> Result<Reply, Failure> {
        let (mut at, mut hash, mut size) = (url.to_owned(), None, None);
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&at);
            // Only the hub receives the token: the addresses of a file store are signed.
            if let Some(authorization) = self.authorization.as_ref().filter(|_| origin(&at) == origin(&self.endpoint)) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            let response = request.call().map_err(|error| Failure::Temporary {
                reason: error.to_string(),
                wait: None,
            })?;
            let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let etag = text("x-linked-etag")
                .or_else(|| text("etag"))
                .map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
            hash = hash.or(etag.filter(|tag| is_hash(tag)));
            size = size.or_else(|| text("x-linked-size")?.parse().ok());
            let status = response.status();
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if is_redirect {
                let next = text("location").and_then(|location| joined(&at, location));
                at = next.ok_or_else(|| invalid_reply(url, "a redirect has no valid address"))?;
                continue;
            }
            if status == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
                return Err(Failure::Range);
            }
            if status.is_success() {
                return Ok(Reply { response, hash, size });
            }
            let code = text("x-error-code").unwrap_or_default().to_owned();
            let wait = text("retry-after")
                .and_then(|text| text.trim().parse().ok())
                .map(Duration::from_secs);
            // The signature in a store's address expires during a long download; the hub gives another one.
            if origin(&at) != origin(&self.endpoint) && matches!(status.as_u16(), 401 | 403) {
                let reason = format!("the store of the hub replied {status}");
                return Err(Failure::Temporary { reason, wait });
            }
            return Err(self.rejection(url, status, &code, wait));
        }
        Err(invalid_reply(url, "it has too many redirects"))
    }

    fn rejection(&self, url: &str, status: StatusCode, code: &str, wait: Option<Duration>) -> Failure {
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if status.is_server_error() || passing.contains(&status) {
            let reason = format!("the server replied {status}");
            return Failure::Temporary { reason, wait };
        }
        let url = url.to_owned();
        // The caller fills in the address of the model.
        let address = String::new();
        let had_token = self.authorization.is_some();
        Failure::Permanent(match status.as_u16() {
            // The hub does not say whether a private model exists.
            401 | 403 if code == "RepoNotFound" && !had_token => HubError::NotFound {
                url,
                address,
                what: "model",
            },
            401 | 403 => HubError::Denied {
                url,
                address,
                status: status.as_u16(),
                gated: code == "GatedRepo",
                had_token,
            },
            404 | 410 => HubError::NotFound {
                url,
                address,
                what: if code == "RevisionNotFound" { "revision" } else { "model" },
            },
            status => HubError::Refused { url, status },
        })
    }
}

/// Returns `error` with the address of the model.
pub(super) fn with_address(mut error: HubError, model: &HubAddress) -> HubError {
    if let HubError::NotFound { address, .. } | HubError::Denied { address, .. } = &mut error {
        *address = model.to_string();
    }
    error
}

fn invalid_reply(url: &str, reason: &str) -> Failure {
    Failure::Permanent(HubError::Answer {
        url: url.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Returns scheme, host and port of an address.
fn origin(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let len = url[start..].find(['/', '?', '#']).unwrap_or(url.len() - start);
    Some(&url[..start + len])
}

/// Returns the address of a redirect from `url`; `None` for a redirect from https to http.
fn joined(url: &str, location: &str) -> Option<String> {
    let is_open = |url: &str| url.starts_with("http://");
    if location.starts_with("https://") || (is_open(location) && is_open(url)) {
        return Some(location.to_owned());
    }
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = url.split("://").next()?;
        return Some(format!("{scheme}://{rest}"));
    }
    location.starts_with('/').then(|| Some(format!("{}{location}", origin(url)?)))?
}

/// Returns a file name with the escapes of an address.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.extend(["%".to_owned(), format!("{byte:02X}")]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_join() {
        for (url, location, next) in [
            ("https://h/a", "/b?c", Some("https://h/b?c")),
            ("https://h:1/a", "https://store/x", Some("https://store/x")),
            ("http://h/a", "http://store/x", Some("http://store/x")),
            ("https://h/a", "//store/x", Some("https://store/x")),
            ("https://h/a", "http://store/x", None),
            ("https://h/a", "b", None),
        ] {
            assert_eq!(joined(url, location).as_deref(), next, "{url} {location}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors");
        assert_eq!(escaped("a b?#%"), "a%20b%3F%23%25");
    }
}
