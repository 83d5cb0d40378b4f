//! Files of known hosts, as OpenSSH writes them.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::patterns::any_pattern_fits;

/// The known hosts of one or several files.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownHosts {
    entries: Vec<Entry>,
}

/// A line of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    names: Names,
    is_revoked: bool,
    /// Type of the key, as `ssh-ed25519`.
    pub(super) key_type: String,
    key: Vec<u8>,
    /// Where it is written: `FILE:LINE`.
    pub(super) at: String,
}

#[derive(Debug, Clone)]
enum Names {
    Patterns(Vec<String>),
    /// HMAC-SHA1 of the name.
    Hashed {
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

/// What is known of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in a file.
    Trusted,
    /// No key of the host is in a file.
    Unknown,
    /// Other keys of the host are in a file: fingerprint and place of each.
    Changed(Vec<String>),
    /// The key is marked as revoked.
    Revoked(String),
}

impl KnownHosts {
    /// Adds the lines of a file. Lines that OpenSSH would not read are skipped, and so are those of certificate authorities,
    /// which the client cannot check.
    pub(super) fn add(&mut self, file: &Path, text: &str) {
        let numbered = text.lines().enumerate();
        self.entries
            .extend(numbered.filter_map(|(index, line)| Entry::parse(line, &format!("{}:{}", file.display(), index + 1))));
    }

    /// Returns the keys of a host. `name` is [`host_name`].
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.names.contain(name))
    }

    /// Checks the key of a host.
    pub(super) fn check(&self, name: &str, key: &[u8]) -> Verdict {
        let mut others = Vec::new();
        let mut is_known = false;
        for entry in self.of(name) {
            match (entry.key == key, entry.is_revoked) {
                (true, true) => return Verdict::Revoked(entry.at.clone()),
                (true, false) => is_known = true,
                (false, false) => others.push(format!("{} ({} in {})", fingerprint(&entry.key), entry.key_type, entry.at)),
                (false, true) => {}
            }
        }
        match (is_known, others.is_empty()) {
            (true, _) => Verdict::Trusted,
            (false, true) => Verdict::Unknown,
            (false, false) => Verdict::Changed(others),
        }
    }
}

impl Entry {
    fn parse(line: &str, at: &str) -> Option<Self> {
        let mut words = line.split_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let is_revoked = match marker {
            None => false,
            Some("@revoked") => true,
            Some(_) => return None,
        };
        let names = words.next().filter(|names| !names.starts_with('#'))?;
        let (key_type, key) = (words.next()?.to_owned(), words.next()?);
        let key = general_purpose::STANDARD.decode(key).ok()?;
        let names = match names.strip_prefix("|1|") {
            Some(hashed) => {
                let (salt, hash) = hashed.split_once('|')?;
                let decode = |text: &str| general_purpose::STANDARD.decode(text).ok();
                Names::Hashed {
                    salt: decode(salt)?,
                    hash: decode(hash)?,
                }
            }
            None => Names::Patterns(names.split(',').map(str::to_lowercase).collect()),
        };
        Some(Self {
            names,
            is_revoked,
            key_type,
            key,
            at: at.to_owned(),
        })
    }
}

impl Names {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => hmac_sha1(salt, name.as_bytes()) == *hash,
            Self::Patterns(patterns) => any_pattern_fits(patterns.iter().map(String::as_str), &name.to_lowercase()),
        }
    }
}

/// Returns the name of a host in these files.
pub(super) fn host_name(host: &str, port: u16) -> String {
    match port {
        22 => host.to_owned(),
        port => format!("[{host}]:{port}"),
    }
}

/// Returns the line for a host's key.
pub(super) fn line(name: &str, key: &[u8]) -> String {
    let key_type = key_type(key).unwrap_or_default();
    format!("{name} {key_type} {}\n", general_purpose::STANDARD.encode(key))
}

/// Returns the fingerprint of a key, as `ssh-keygen -l` prints it.
pub(super) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(key)))
}

/// Returns the type of a key: the first text of its bytes, behind the text's length.
pub(super) fn key_type(key: &[u8]) -> Option<String> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Returns the fingerprint and type of the key in a line that OpenSSH names as `FILE:LINE`.
pub(super) fn fingerprint_at(at: &str) -> Option<String> {
    let (file, number) = at.rsplit_once(':')?;
    let text = std::fs::read_to_string(PathBuf::from(file)).ok()?;
    let line = text.lines().nth(number.trim().parse::<usize>().ok()?.checked_sub(1)?)?;
    let entry = Entry::parse(line, at)?;
    Some(format!("{} ({})", fingerprint(&entry.key), entry.key_type))
}

/// Returns HMAC-SHA1, as RFC 2104 defines it.
fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..20].copy_from_slice(&Sha1::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha1::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha1::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJbVYWeqRVw2PXFDYXaGSPgDYqCqRmrn6Q5SoKPzXVXk";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIBbVYWeqRVw2PXFDYXaGSPgDYqCqRmrn6Q5SoKPzXVXk";

    fn verdict(text: &str, name: &str) -> Verdict {
        let mut known = KnownHosts::default();
        known.add(Path::new("kh"), text);
        known.check(name, &general_purpose::STANDARD.decode(KEY).unwrap())
    }

    #[test]
    fn hosts_are_found_by_name_pattern_and_hash() {
        let ours = |names: &str| format!("# a comment\n{names} ssh-ed25519 {KEY} me@here\n");
        // The hash is of `login.example.org`, by `ssh-keygen -H`'s rule.
        let salt = general_purpose::STANDARD.encode([7_u8; 20]);
        let hash = general_purpose::STANDARD.encode(hmac_sha1(&[7; 20], b"login.example.org"));
        for (text, name, expect) in [
            (ours("login.example.org"), "login.example.org", Verdict::Trusted),
            (ours("a,Login.Example.org,10.0.0.1"), "login.example.org", Verdict::Trusted),
            (ours("*.example.org,!login.*"), "login.example.org", Verdict::Unknown),
            (ours("[login.example.org]:2222"), "[login.example.org]:2222", Verdict::Trusted),
            (ours("[login.example.org]:2222"), "login.example.org", Verdict::Unknown),
            (ours(&format!("|1|{salt}|{hash}")), "login.example.org", Verdict::Trusted),
            (ours(&format!("|1|{salt}|{hash}")), "login2.example.org", Verdict::Unknown),
            (ours("@cert-authority *"), "login.example.org", Verdict::Unknown),
            (ours("@revoked *"), "login.example.org", Verdict::Revoked("kh:2".to_owned())),
            ("not a line\nlogin ssh-ed25519 ???\n".to_owned(), "login", Verdict::Unknown),
        ] {
            assert_eq!(verdict(&text, name), expect, "{text}");
        }
    }

    #[test]
    fn another_key_is_shown_with_its_place() {
        let text = format!("\nlogin ssh-ed25519 {OTHER}\n");
        let Verdict::Changed(known) = verdict(&text, "login") else {
            panic!("not changed")
        };
        assert_eq!(known.len(), 1);
        assert!(
            known[0].starts_with("SHA256:") && known[0].ends_with("(ssh-ed25519 in kh:2)"),
            "{known:?}"
        );
        // A second line with the right key, as after a move to new hardware.
        assert_eq!(verdict(&format!("{text}login ssh-ed25519 {KEY}\n"), "login"), Verdict::Trusted);
    }

    /// RFC 2202, test case 2.
    #[test]
    fn the_hash_is_rfc_2104() {
        let hex: String = hmac_sha1(b"Jefe", b"what do ya want for nothing?")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    }
}
