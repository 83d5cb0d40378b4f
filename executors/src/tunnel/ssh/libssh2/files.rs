//! Files over SFTP.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Instant,
};

use ssh2::{ErrorCode, FileStat, OpenFlags, OpenType, RenameFlags, Session, Sftp};

use super::connection::left_ms;
use crate::tunnel::ssh::sftp::{Content, SftpRequest};

/// Error of a transfer.
pub(super) enum TransferError {
    /// The connection was cut.
    Lost(io::Error),
    /// The file cannot be written or read there, or here.
    File {
        /// Failed action.
        action: &'static str,
        /// The file.
        path: String,
        /// The cause.
        reason: String,
    },
}

/// SFTP's code for a missing file.
const NO_SUCH_FILE: i32 = 2;

/// Performs a request over a session.
pub(super) fn perform(session: &Session, request: &SftpRequest, deadline: Instant) -> Result<Option<Vec<u8>>, TransferError> {
    session.set_blocking(true);
    session.set_timeout(left_ms(deadline));
    let sftp = session.sftp().map_err(|error| TransferError::Lost(error.into()))?;
    match request {
        SftpRequest::Put { from, part, to, mode } => put(&sftp, from, part, to, *mode).map(|()| None),
        SftpRequest::Read { file, offset, limit } => read(&sftp, file, *offset, *limit),
    }
}

fn put(sftp: &Sftp, from: &Content, part: &Path, to: &Path, mode: u32) -> Result<(), TransferError> {
    let failed = |error: ssh2::Error| remote_error("write", to, &error);
    let local = |error: io::Error| TransferError::File {
        action: "write",
        path: to.display().to_string(),
        reason: format!("the local file cannot be read: {error}"),
    };
    let stream = |error: io::Error| stream_error("write", to, error);
    let permissions = || FileStat {
        size: None,
        uid: None,
        gid: None,
        perm: Some(mode),
        atime: None,
        mtime: None,
    };
    let (mut source, len) = from.open().map_err(local)?;
    if let Some(folder) = to.parent() {
        create_folders(sftp, folder).map_err(failed)?;
    }
    if sftp.stat(to).is_ok_and(|stat| stat.size == Some(len)) {
        let mut there = sftp.open(to).map_err(failed)?;
        if is_same(&mut source, &mut there).map_err(stream)? {
            return sftp.setstat(to, permissions()).map_err(failed);
        }
    }
    // What an earlier try sent of this very file.
    let sent = sftp
        .stat(part)
        .ok()
        .and_then(|stat| stat.size)
        .filter(|sent| *sent <= len)
        .unwrap_or(0);
    source.seek(SeekFrom::Start(sent)).map_err(local)?;
    let flags = OpenFlags::WRITE | OpenFlags::CREATE;
    let mut file = sftp
        .open_mode(part, flags, i32::try_from(mode).unwrap_or(0o600), OpenType::File)
        .map_err(failed)?;
    file.seek(SeekFrom::Start(sent)).map_err(stream)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = source.read(&mut buffer).map_err(local)?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read]).map_err(stream)?;
    }
    file.close().map_err(failed)?;
    sftp.setstat(part, permissions()).map_err(failed)?;
    let flags = RenameFlags::ATOMIC | RenameFlags::OVERWRITE | RenameFlags::NATIVE;
    sftp.rename(part, to, Some(flags))
        .or_else(|_| {
            // Servers of version 3 of the protocol do not replace files.
            let _ = sftp.unlink(to);
            sftp.rename(part, to, None)
        })
        .map_err(failed)
}

fn read(sftp: &Sftp, path: &Path, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, TransferError> {
    let mut file = match sftp.open(path) {
        Err(error) if error.code() == ErrorCode::SFTP(NO_SUCH_FILE) => return Ok(None),
        opened => opened.map_err(|error| remote_error("read", path, &error))?,
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| stream_error("read", path, error))?;
    Ok(Some(bytes))
}

/// Compares two streams of the same length.
fn is_same(here: &mut impl io::Read, there: &mut impl io::Read) -> io::Result<bool> {
    let (mut a, mut b) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    loop {
        let read = there.read(&mut b)?;
        if read == 0 {
            return Ok(true);
        }
        here.read_exact(&mut a[..read])?;
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}

/// Creates a folder and those above it.
fn create_folders(sftp: &Sftp, folder: &Path) -> Result<(), ssh2::Error> {
    if folder.parent().is_none() || sftp.stat(folder).is_ok() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_folders(sftp, above)?;
    }
    match sftp.mkdir(folder, 0o755) {
        Err(error) if sftp.stat(folder).is_err() => Err(error),
        _ => Ok(()),
    }
}

fn remote_error(action: &'static str, path: &Path, error: &ssh2::Error) -> TransferError {
    match error.code() {
        ErrorCode::SFTP(_) => TransferError::File {
            action,
            path: path.display().to_string(),
            reason: error.message().to_owned(),
        },
        ErrorCode::Session(_) => TransferError::Lost(io::Error::other(error.message().to_owned())),
    }
}

/// Returns the error of reading or writing a far file.
fn stream_error(action: &'static str, path: &Path, error: io::Error) -> TransferError {
    match error.get_ref().and_then(|error| error.downcast_ref::<ssh2::Error>()) {
        Some(inner) => remote_error(action, path, inner),
        None => TransferError::Lost(error),
    }
}
