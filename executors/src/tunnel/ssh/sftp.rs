//! File transfer by SFTP, for accounts whose shell cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::ExecutorError,
    executor::BoxFuture,
    tunnel::{TunnelFile, content, part_name},
};

/// Time for one file: large ones take as long as they need on a line of 64 KiB/s.
const FIRST: Duration = Duration::from_secs(60);

/// An operation on the far files.
#[derive(Debug, Clone)]
pub(super) enum SftpRequest {
    /// Writes a file to a temporary name and renames it, unless it has this content; continues a cut transfer.
    Put {
        /// What to write.
        from: Content,
        /// Temporary name.
        part: PathBuf,
        /// The file.
        to: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Reads a range of a file; the answer is `None` if it does not exist.
    Read {
        /// The file.
        file: PathBuf,
        /// First byte.
        offset: u64,
        /// Number of bytes at most.
        limit: u64,
    },
}

/// Bytes to write.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// These.
    Bytes(Vec<u8>),
    /// Those of a local file.
    File(PathBuf),
}

/// A client that transfers files by SFTP.
pub(super) trait SftpTransport: Send + Sync {
    /// Performs a request.
    ///
    /// # Errors
    /// The machine cannot be reached, or the file cannot be written or read.
    fn perform(&self, request: SftpRequest, deadline: Duration) -> BoxFuture<'_, Result<Option<Vec<u8>>, ExecutorError>>;
}

/// As [`crate::tunnel::Tunnel::write`].
pub(super) async fn write(transport: &dyn SftpTransport, files: &[TunnelFile]) -> Result<(), ExecutorError> {
    for file in files {
        let request = SftpRequest::Put {
            from: Content::Bytes(file.bytes.clone()),
            part: part_name(&file.path),
            to: file.path.clone(),
            mode: file.mode,
        };
        transport.perform(request, deadline(file.bytes.len() as u64)).await?;
    }
    Ok(())
}

/// As [`crate::tunnel::Tunnel::upload`].
pub(super) async fn upload(transport: &dyn SftpTransport, from: &Path, to: &Path) -> Result<(), ExecutorError> {
    for file in content::tree(from)? {
        let place = file.place(to);
        let request = SftpRequest::Put {
            part: part_name(&place),
            from: Content::File(file.from),
            to: place,
            mode: file.mode,
        };
        transport.perform(request, deadline(file.len)).await?;
    }
    Ok(())
}

/// As [`crate::tunnel::Tunnel::read`].
pub(super) async fn read(transport: &dyn SftpTransport, file: &Path, offset: u64, limit: u64) -> Result<Option<Vec<u8>>, ExecutorError> {
    let file = file.to_owned();
    transport.perform(SftpRequest::Read { file, offset, limit }, deadline(limit)).await
}

/// Returns the time for so many bytes.
fn deadline(bytes: u64) -> Duration {
    FIRST + Duration::from_secs(bytes / (64 << 10))
}

impl Content {
    /// Opens the bytes for reading, with their number.
    pub(super) fn open(&self) -> io::Result<(Box<dyn ReadSeek + '_>, u64)> {
        Ok(match self {
            Self::Bytes(bytes) => (Box::new(io::Cursor::new(bytes.as_slice())), bytes.len() as u64),
            Self::File(path) => {
                let file = std::fs::File::open(path)?;
                let len = file.metadata()?.len();
                (Box::new(file), len)
            }
        })
    }
}

/// A source of bytes that can be read from any place.
pub(super) trait ReadSeek: io::Read + io::Seek {}

impl<T: io::Read + io::Seek> ReadSeek for T {}
