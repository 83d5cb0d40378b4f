//! Download of one file: resumed after interruptions, checked, and stored under its hash.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{
    Notice,
    error::HubError,
    http::{Client, Failure, Reply, Tries},
    listing::RemoteFile,
    lock,
};

/// Size of the read buffer in bytes.
const PIECE: usize = 1 << 18;
/// Least number of bytes of a try that made progress.
const GAIN: u64 = 1 << 16;
/// Time between two progress messages of a file.
const PROGRESS: Duration = Duration::from_secs(10);
/// Length of a SHA-256 in hexadecimal; git's SHA-1 is shorter.
const SHA256: usize = 64;

/// Returns the blob of `file`, which is downloaded from `url` unless it is in `blobs`.
///
/// # Errors
/// The file cannot be downloaded, has another hash, or cannot be written.
pub(super) fn blob(
    client: &Client,
    url: &str,
    file: &RemoteFile,
    blobs: &Path,
    locks: &Path,
    notice: Notice<'_>,
) -> Result<PathBuf, HubError> {
    let mut tries = Tries::new(url);
    // The file's own headers have the hash if the list of files has none.
    let (hash, size) = match (&file.hash, file.size) {
        (Some(hash), Some(size)) => (hash.clone(), Some(size)),
        (hash, size) => {
            let reply = request(client, url, 0, &mut tries, notice)?;
            let hash = hash.clone().or(reply.hash).ok_or_else(|| HubError::Answer {
                url: url.to_owned(),
                reason: "neither the list of files nor the ETag has the hash of the file".to_owned(),
            })?;
            (hash, size.or(reply.size))
        }
    };
    let blob = blobs.join(&hash);
    let part = blobs.join(format!("{hash}.incomplete"));
    let _lock = lock::take(&locks.join(format!("{hash}.lock")), &part)?;
    if blob.is_file() {
        return Ok(blob);
    }
    notice(&format!(
        "downloading {}{}",
        file.path,
        size.map_or_else(String::new, |size| format!(", {}", bytes(size)))
    ));
    let mut download = Download {
        file: OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&part)
            .map_err(|source| HubError::io("write", &part, source))?,
        part: &part,
        name: &file.path,
        size,
        reported: Instant::now(),
    };
    let resumed = download.len()? > 0;
    download.run(client, url, &mut tries, notice)?;
    let mut found = download.hash(&hash)?;
    if found != hash && resumed {
        // The incomplete file belonged to another one.
        download.restart()?;
        download.run(client, url, &mut tries, notice)?;
        found = download.hash(&hash)?;
    }
    if found != hash {
        fs::remove_file(&part).map_err(|source| HubError::io("remove", &part, source))?;
        return Err(HubError::Hash {
            url: url.to_owned(),
            expected: hash,
            found,
        });
    }
    download.file.sync_all().map_err(|source| HubError::io("write", &part, source))?;
    fs::rename(&part, &blob).map_err(|source| HubError::io("write", &blob, source))?;
    Ok(blob)
}

/// Sends the request until a reply arrives.
fn request(client: &Client, url: &str, offset: u64, tries: &mut Tries, notice: Notice<'_>) -> Result<Reply, HubError> {
    loop {
        match client.get(url, offset) {
            Ok(reply) => return Ok(reply),
            Err(Failure::Temporary { reason, wait }) => tries.again(reason, wait, notice)?,
            Err(Failure::Range) => tries.again("the range is refused".to_owned(), None, notice)?,
            Err(Failure::Permanent(error)) => return Err(error),
        }
    }
}

/// A download in progress.
struct Download<'a> {
    file: File,
    part: &'a Path,
    name: &'a str,
    size: Option<u64>,
    reported: Instant,
}

impl Download<'_> {
    fn failed(&self, source: io::Error) -> HubError {
        HubError::io("write", self.part, source)
    }

    fn len(&self) -> Result<u64, HubError> {
        Ok(self.file.metadata().map_err(|source| self.failed(source))?.len())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|source| self.failed(source))
    }

    /// Downloads the missing bytes.
    fn run(&mut self, client: &Client, url: &str, tries: &mut Tries, notice: Notice<'_>) -> Result<(), HubError> {
        loop {
            let offset = self.len()?;
            match self.size {
                Some(size) if offset == size => return Ok(()),
                Some(size) if offset > size => {
                    self.restart()?;
                    continue;
                }
                _ => {}
            }
            let reason = match client.get(url, offset) {
                Ok(reply) => match self.read(reply, offset, notice)? {
                    None => return Ok(()),
                    Some(reason) => reason,
                },
                Err(Failure::Temporary { reason, wait }) => {
                    tries.again(reason, wait, notice)?;
                    continue;
                }
                Err(Failure::Range) => {
                    self.restart()?;
                    "the server has fewer bytes than the incomplete file".to_owned()
                }
                Err(Failure::Permanent(error)) => return Err(error),
            };
            if self.len()? >= offset.saturating_add(GAIN) {
                tries.reset();
            } else {
                tries.again(reason, None, notice)?;
            }
        }
    }

    /// Appends a reply to the first `offset` bytes. Returns the reason if it ended early.
    fn read(&mut self, mut reply: Reply, offset: u64, notice: Notice<'_>) -> Result<Option<String>, HubError> {
        let header = |name: &str| reply.response.headers().get(name).and_then(|value| value.to_str().ok());
        let range = header("content-range").and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
        let length = header("content-length").and_then(|text| text.parse::<u64>().ok());
        // A server that does not support ranges sends the whole file.
        let start = if reply.response.status().as_u16() == 206 {
            range.unwrap_or(offset)
        } else {
            0
        };
        if start > offset {
            return Ok(Some("the server sent another range than the requested one".to_owned()));
        }
        self.file.set_len(start).map_err(|source| self.failed(source))?;
        self.file.seek(SeekFrom::Start(start)).map_err(|source| self.failed(source))?;
        let end = self.size.or(length.map(|length| start + length));
        let (mut at, mut piece) = (start, vec![0; PIECE]);
        let mut body = reply.response.body_mut().as_reader();
        loop {
            let read = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(format!("the connection was lost: {error}"))),
            };
            self.file.write_all(&piece[..read]).map_err(|source| self.failed(source))?;
            at += read as u64;
            if self.reported.elapsed() > PROGRESS {
                self.reported = Instant::now();
                let of = end.map_or_else(String::new, |end| format!(" of {}", bytes(end)));
                notice(&format!("downloading {}: {}{of}", self.name, bytes(at)));
            }
            if end.is_some_and(|end| at > end) {
                // The file has too many bytes; the check of the hash reports it.
                break;
            }
        }
        let missing = end.filter(|end| at < *end);
        Ok(missing.map(|end| format!("the connection was lost at byte {at} of {end}")))
    }

    /// Returns the hash of the whole file, of the same kind as `like`.
    fn hash(&mut self, like: &str) -> Result<String, HubError> {
        let len = self.len()?;
        self.file.seek(SeekFrom::Start(0)).map_err(|source| self.failed(source))?;
        let mut reader = io::BufReader::with_capacity(PIECE, &self.file);
        let digest = if like.len() == SHA256 {
            let mut hasher = Sha256::new();
            io::copy(&mut reader, &mut hasher).map(|_| hex(&hasher.finalize()))
        } else {
            // git's hash of a blob.
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {len}\0"));
            io::copy(&mut reader, &mut hasher).map(|_| hex(&hasher.finalize()))
        };
        digest.map_err(|source| HubError::io("read", self.part, source))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Formats a size for people.
fn bytes(size: u64) -> String {
    const UNITS: &[(&str, f64)] = &[("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = UNITS.iter().find(|(_, unit)| size as f64 >= *unit);
    unit.map_or_else(|| format!("{size} B"), |(name, unit)| format!("{:.1} {name}", size as f64 / unit))
}
