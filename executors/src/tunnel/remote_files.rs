//! Files on a machine that runs commands: they are written, sent and read by small POSIX scripts.
//!
//! A file is sent in chunks to a temporary file beside its place, checked by its SHA-256 hash there and then renamed. After
//! a lost connection the rest is sent.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    CommandEnd, Tunnel, TunnelFile,
    content::{self, SourceFile, hash_bytes, hash_file},
    part_name,
    remote_script::{CHECK, MISSING, PUT, READ, STATE, changed, file_error, path_text, script, succeeded},
};
use crate::error::ExecutorError;

/// Maximum number of bytes that one command carries.
const CHUNK: u64 = 8 << 20;

/// Files up to this length are sent at once, without a question before.
const SMALL: u64 = 256 << 10;

/// Number of failures in a row, without a chunk between them, after which an upload gives up.
const TRIES: u32 = 4;

/// Files that are sent at the same time.
const PARALLEL: usize = 4;

/// Number of files whose hashes one command compares.
const BATCH: usize = 500;

/// As [`Tunnel::write`].
pub(super) async fn write(tunnel: &dyn Tunnel, files: &[TunnelFile]) -> Result<(), ExecutorError> {
    for file in files {
        let source = Source::Bytes(&file.bytes);
        send(tunnel, &source, &hash_bytes(&file.bytes), file.mode, &file.path).await?;
    }
    Ok(())
}

/// As [`Tunnel::upload`].
pub(super) async fn upload(tunnel: &dyn Tunnel, from: &Path, to: &Path) -> Result<(), ExecutorError> {
    let source = from.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let files = content::tree(&source)?;
        let hashed = files.into_iter().map(|file| Ok((hash_file(&file.from)?, file)));
        hashed.collect::<Result<Vec<_>, ExecutorError>>()
    });
    let hashed = hashed.await.map_err(|error| local(from, error.into()))??;
    let mut missing = Vec::new();
    for batch in hashed.chunks(BATCH) {
        let line = |(hash, file): &(String, SourceFile)| Ok(format!("{hash} {:o} {}\n", file.mode, path_text(&file.place(to))?));
        let lines = batch.iter().map(line).collect::<Result<String, ExecutorError>>()?;
        let output = script(tunnel, CHECK, &[], lines.into_bytes()).await?;
        let numbers = succeeded(tunnel, "compare files below", to, output)?;
        missing.extend(numbers.lines().filter_map(|number| batch.get(number.trim().parse::<usize>().ok()?)));
    }
    let sends = missing.into_iter().map(|(hash, file)| async move {
        let source = Source::File(&file.from, file.len);
        send(tunnel, &source, hash, file.mode, &file.place(to)).await
    });
    let sends: Vec<_> = sends.collect();
    stream::iter(sends)
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await
        .map(|_| ())
}

/// As [`Tunnel::read`].
pub(super) async fn read(tunnel: &dyn Tunnel, file: &Path, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, ExecutorError> {
    let arguments = [path_text(file)?, (offset + 1).to_string(), limit.to_string()];
    let output = script(tunnel, READ, &arguments, Vec::new()).await?;
    match output.end {
        CommandEnd::Exit(0) => Ok(Some(output.stdout)),
        CommandEnd::Exit(MISSING) => Ok(None),
        _ => Err(file_error(tunnel, "read", file, &output)),
    }
}

/// Bytes to send.
enum Source<'a> {
    Bytes(&'a [u8]),
    File(&'a Path, u64),
}

impl Source<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Returns at most [`CHUNK`] bytes from `offset` on.
    fn chunk(&self, offset: u64) -> Result<Vec<u8>, ExecutorError> {
        match self {
            Self::Bytes(bytes) => {
                let rest = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..))
                    .unwrap_or_default();
                Ok(rest.chunks(CHUNK as usize).next().unwrap_or_default().to_vec())
            }
            Self::File(path, _) => {
                let mut bytes = Vec::new();
                let read = fs::File::open(path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(offset))?;
                    file.take(CHUNK).read_to_end(&mut bytes)
                });
                read.map(|_| bytes).map_err(|source| local(path, source))
            }
        }
    }
}

/// Sends a file unless it is there already.
async fn send(tunnel: &dyn Tunnel, source: &Source<'_>, hash: &str, mode: u32, to: &Path) -> Result<(), ExecutorError> {
    if source.len() > SMALL {
        return send_in_chunks(tunnel, source, hash, mode, to).await;
    }
    let part = part_name(to);
    let mut failures = 0;
    loop {
        match put(tunnel, source, (hash, mode), (&part, to), 0).await {
            Ok(answer) if answer == "done" || answer == "same" => return Ok(()),
            Ok(_) => return Err(changed(tunnel, to)),
            Err(error) => pause_before_retry(&mut failures, error).await?,
        }
    }
}

/// Sends the chunk of a file that begins at `offset`, and returns what [`PUT`] prints.
async fn put(
    tunnel: &dyn Tunnel,
    source: &Source<'_>,
    (hash, mode): (&str, u32),
    (part, to): (&Path, &Path),
    offset: u64,
) -> Result<String, ExecutorError> {
    let (mode, length) = (format!("{mode:o}"), source.len().to_string());
    let arguments = [path_text(to)?, path_text(part)?, hash.to_owned(), mode, offset.to_string(), length];
    let output = script(tunnel, PUT, &arguments, source.chunk(offset)?).await?;
    succeeded(tunnel, "write", to, output)
}

async fn send_in_chunks(tunnel: &dyn Tunnel, source: &Source<'_>, hash: &str, mode: u32, to: &Path) -> Result<(), ExecutorError> {
    // Any launcher continues an upload that was cut. Where two send the same file, one of them takes a name of its own.
    let mut part = to.as_os_str().to_owned();
    part.push(format!(".{}.part", hash.get(..12).unwrap_or(hash)));
    let mut part = PathBuf::from(part);
    let mut failures = 0;
    let mut is_own = false;
    'state: loop {
        let arguments = [path_text(to)?, path_text(&part)?, hash.to_owned()];
        let state = match script(tunnel, STATE, &arguments, Vec::new()).await {
            Ok(output) => succeeded(tunnel, "write", to, output)?,
            Err(error) => {
                pause_before_retry(&mut failures, error).await?;
                continue;
            }
        };
        if state == "same" {
            return Ok(());
        }
        let mut offset = state.parse().unwrap_or(0);
        if offset > source.len() {
            offset = 0;
        }
        loop {
            let answer = match put(tunnel, source, (hash, mode), (&part, to), offset).await {
                Ok(answer) => answer,
                Err(error) => {
                    pause_before_retry(&mut failures, error).await?;
                    continue 'state;
                }
            };
            match answer.parse::<u64>() {
                Ok(have) if have > offset && have < source.len() => {
                    failures = 0;
                    offset = have;
                }
                _ if answer == "done" || answer == "same" => return Ok(()),
                // Another launcher wrote to the temporary file.
                _ if !is_own => {
                    is_own = true;
                    part = part_name(to);
                    continue 'state;
                }
                _ => return Err(changed(tunnel, to)),
            }
        }
    }
}

/// Waits before a lost connection is tried again, longer each time; an upload may be repeated.
async fn pause_before_retry(failures: &mut u32, error: ExecutorError) -> Result<(), ExecutorError> {
    *failures += 1;
    if !error.is_connection_lost() || *failures >= TRIES {
        return Err(error);
    }
    tracing::info!("{error}; the upload goes on when it is back");
    tokio::time::sleep(Duration::from_millis(500 << *failures)).await;
    Ok(())
}

fn local(path: &Path, source: io::Error) -> ExecutorError {
    ExecutorError::File {
        action: "read",
        path: path.to_owned(),
        source,
    }
}
