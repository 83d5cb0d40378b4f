//! BLAKE3 checksums of a checkpoint's files, which detect a flipped bit before training.

use crate::error::{EngineError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes that are hashed at once. A mapped file would count as memory of this process, which a job's limit may not allow.
const CHUNK: usize = 16 << 20;

/// Length and BLAKE3 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

impl Checksum {
    /// Computes the checksum of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let read = || {
            let mut hasher = blake3::Hasher::new();
            let (mut file, mut buffer) = (File::open(path)?, vec![0; CHUNK]);
            loop {
                match file.read(&mut buffer)? {
                    0 => return std::io::Result::Ok(hasher),
                    read => {
                        hasher.update_rayon(&buffer[..read]);
                    }
                }
            }
        };
        let hasher = read().map_err(EngineError::io("read", path))?;
        Ok(Self {
            bytes: hasher.count(),
            blake3: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// File with the BLAKE3 of `checkpoint.json`, which holds those of all other files.
pub const SEAL: &str = "checkpoint.blake3";

/// Checksums of a checkpoint's files, by name.
pub type Checksums = BTreeMap<String, Checksum>;

/// Checks the files of `folder` against their checksums, the table of checksums first.
///
/// # Errors
/// One is missing, truncated, or holds other bytes.
pub(super) fn verify(folder: &Path, sums: &Checksums) -> Result<()> {
    verify_table(folder)?;
    sums.iter().try_for_each(|(name, sum)| verify_file(&folder.join(name), sum))
}

/// Checks the table of checksums.
///
/// # Errors
/// It or its seal is missing, or holds other bytes.
pub(super) fn verify_table(folder: &Path) -> Result<()> {
    let (table, seal) = (folder.join("checkpoint.json"), folder.join(SEAL));
    let expected = std::fs::read(&seal).map_err(EngineError::io("read", &seal))?;
    if Checksum::of(&table)?.blake3.as_bytes() != expected.trim_ascii() {
        return Err(EngineError::Content {
            path: table,
            reason: format!("damaged: its checksum is not the one in {SEAL}"),
        });
    }
    Ok(())
}

/// Checks a file against its checksum.
///
/// # Errors
/// It is missing, truncated, or holds other bytes.
pub(super) fn verify_file(path: &Path, sum: &Checksum) -> Result<()> {
    let wrong = |reason: String| EngineError::Content {
        path: path.to_owned(),
        reason,
    };
    let length = std::fs::metadata(path).map_err(EngineError::io("read", path))?.len();
    if length != sum.bytes {
        let what = if length < sum.bytes { "truncated" } else { "too long" };
        return Err(wrong(format!("{what}: {length} bytes, it was written with {}", sum.bytes)));
    }
    if Checksum::of(path)? != *sum {
        return Err(wrong("damaged: its checksum is not the one that it was written with".into()));
    }
    Ok(())
}
