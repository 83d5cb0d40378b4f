//! Walks through the members of a tar archive: names and positions, without the contents.
//!
//! Nothing of an archive is trusted. Absolute names, `..`, links, devices and sparse files are refused, and so are sizes that
//! leave the archive. Names and extended headers have a limit.

use std::{io, ops::Range};

use tar::{EntryType, Header};

use crate::compression::unpacking_program;

/// A regular file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Position of its first header.
    pub(super) start: u64,
    /// Position of its content.
    pub(super) content: Range<u64>,
}

/// Reads bytes at a position.
pub(super) trait ReadAt {
    fn read_exact_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

/// The reason why an archive cannot be walked.
#[derive(Debug)]
pub(super) enum WalkError {
    Io(io::Error),
    /// Position and reason.
    Broken(u64, String),
}

enum Entry {
    File(Member),
    Folder,
    End,
}

const BLOCK: u64 = 512;

/// Maximum size of a long name or an extended header, in bytes.
const MAX_EXTENSION: u64 = 1 << 16;

/// Maximum number of extended headers in front of a member.
const MAX_EXTENSIONS: usize = 8;

/// Iterator over the regular files in a range of an archive.
pub(super) struct TarWalk<R> {
    reader: R,
    at: u64,
    end: u64,
}

impl<R: ReadAt> TarWalk<R> {
    pub(super) fn new(reader: R, range: Range<u64>) -> Self {
        Self {
            reader,
            at: range.start,
            end: range.end,
        }
    }

    pub(super) fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    /// Returns the position behind the last member, after the walk has ended.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Returns the next regular file, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, WalkError> {
        loop {
            match self.member()? {
                Entry::File(member) => return Ok(Some(member)),
                Entry::Folder => {}
                Entry::End => return Ok(None),
            }
        }
    }

    fn member(&mut self) -> Result<Entry, WalkError> {
        let start = self.at;
        let (mut long_name, mut long_size) = (None, None);
        let mut at = start;
        for _ in 0..=MAX_EXTENSIONS {
            let broken = |reason: String| WalkError::Broken(at, reason);
            if at >= self.end {
                return match at == start {
                    true => Ok(Entry::End),
                    false => Err(broken("the archive ends behind an extended header".to_owned())),
                };
            }
            if self.end - at < BLOCK {
                return Err(broken(
                    "the archive is cut off within a header: copy or download it again".to_owned(),
                ));
            }
            let mut block = [0; BLOCK as usize];
            self.reader.read_exact_at(&mut block, at).map_err(WalkError::Io)?;
            if block.iter().all(|byte| *byte == 0) {
                // The end of the archive. Its position is that of the zero block.
                return match at == start {
                    true => {
                        self.end = at;
                        Ok(Entry::End)
                    }
                    false => Err(broken("the archive ends behind an extended header".to_owned())),
                };
            }
            let header = Header::from_byte_slice(&block);
            if !checksum(&block, header) {
                if let Some(program) = unpacking_program(&block).filter(|_| at == 0) {
                    return Err(broken(format!(
                        "the archive is compressed: samples within it cannot be read in any order; unpack it with `{program}`"
                    )));
                }
                return Err(broken(
                    "there is no tar header: the archive is damaged, or the index is not of this archive".to_owned(),
                ));
            }
            let kind = header.entry_type();
            let size = header
                .entry_size()
                .map_err(|_| broken("the size in a tar header is no number".to_owned()))?;
            let size = match kind {
                EntryType::Regular | EntryType::Continuous => long_size.unwrap_or(size),
                _ => size,
            };
            let content = at + BLOCK;
            let next = size
                .checked_add(BLOCK - 1)
                .map(|padded| padded / BLOCK * BLOCK)
                .and_then(|padded| content.checked_add(padded))
                .filter(|_| content.checked_add(size).is_some_and(|end| end <= self.end));
            let Some(next) = next else {
                return Err(broken(format!(
                    "a member of {size} bytes leaves the archive: it is cut off, or its index is not of this archive"
                )));
            };
            match kind {
                EntryType::GNULongName | EntryType::XHeader => {
                    let bytes = self
                        .extension(content, size)
                        .map_err(|error| error.unwrap_or_else(|| broken(TOO_LONG.to_owned())))?;
                    if kind == EntryType::GNULongName {
                        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                        long_name = Some(String::from_utf8_lossy(name).into_owned());
                    } else {
                        let (name, size) = pax(&bytes).map_err(broken)?;
                        (long_name, long_size) = (name.or(long_name), size.or(long_size));
                    }
                    at = next;
                    continue;
                }
                // Global settings, such as a comment, and the long name of a link.
                EntryType::XGlobalHeader | EntryType::GNULongLink => {
                    at = next;
                    continue;
                }
                _ => {}
            }
            let name = long_name.unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
            check_name(&name).map_err(broken)?;
            self.at = next;
            match kind {
                // The name of an old archive's folder ends with a slash.
                EntryType::Regular | EntryType::Continuous if !name.ends_with('/') => {
                    return Ok(Entry::File(Member {
                        name,
                        start,
                        content: content..content + size,
                    }));
                }
                EntryType::Directory | EntryType::Regular | EntryType::Continuous => return Ok(Entry::Folder),
                EntryType::Symlink | EntryType::Link => {
                    return Err(WalkError::Broken(
                        at,
                        format!("{name} is a link, which is refused: pack the file itself (`tar -h`)"),
                    ));
                }
                EntryType::GNUSparse => {
                    return Err(WalkError::Broken(
                        at,
                        format!("{name} is a sparse file, which is refused: pack it without `--sparse`"),
                    ));
                }
                _ => {
                    return Err(WalkError::Broken(
                        at,
                        format!("{name} is no regular file, which is refused: pack files only"),
                    ));
                }
            }
        }
        Err(WalkError::Broken(
            start,
            format!("there are more than {MAX_EXTENSIONS} extended headers for one member"),
        ))
    }

    /// Reads the content of an extended header. `Err(None)`: it is too long.
    fn extension(&mut self, at: u64, size: u64) -> Result<Vec<u8>, Option<WalkError>> {
        if size > MAX_EXTENSION {
            return Err(None);
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.reader
            .read_exact_at(&mut bytes, at)
            .map_err(|error| Some(WalkError::Io(error)))?;
        Ok(bytes)
    }
}

const TOO_LONG: &str = "an extended header is longer than 64 KiB";

fn checksum(block: &[u8; BLOCK as usize], header: &Header) -> bool {
    let sum = |value: fn(u8) -> i64| -> i64 {
        let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { value(b' ') } else { value(*byte) };
        block.iter().enumerate().map(byte).sum()
    };
    // Old programs added the bytes as signed ones.
    header.cksum().is_ok_and(|expected| {
        let expected = i64::from(expected);
        expected == sum(i64::from) || expected == sum(|byte| i64::from(byte.cast_signed()))
    })
}

/// Returns path and size of an extended header of POSIX.
fn pax(bytes: &[u8]) -> Result<(Option<String>, Option<u64>), String> {
    let (mut name, mut size) = (None, None);
    for record in tar::PaxExtensions::new(bytes) {
        let record = record.map_err(|_| "an extended header is not valid".to_owned())?;
        let value = String::from_utf8_lossy(record.value_bytes()).into_owned();
        match record.key_bytes() {
            b"path" => name = Some(value),
            b"size" => {
                size = Some(
                    value
                        .parse()
                        .map_err(|_| format!("the size {value:?} of an extended header is no number"))?,
                )
            }
            key if key.starts_with(b"GNU.sparse") => return Err("a sparse file is refused: pack it without `--sparse`".to_owned()),
            _ => {}
        }
    }
    Ok((name, size))
}

fn check_name(name: &str) -> Result<(), String> {
    let reason = if name.starts_with('/') {
        "an absolute name"
    } else if name.split('/').any(|part| part == "..") {
        "a name with `..`"
    } else if name.contains('\0') || name.is_empty() {
        "no valid name"
    } else {
        return Ok(());
    };
    Err(format!(
        "{name:?} is {reason}, which is refused: pack the files with names below one folder"
    ))
}

/// Splits the name of a member into the key of its sample and the name of the part, as Energon does: the key ends at the
/// first `.` of the last path component. `None`: the member belongs to no sample.
pub(super) fn split_name(name: &str) -> Option<(&str, &str)> {
    let component = name.split('/').next().unwrap_or_default();
    if component.len() >= 4 && component.starts_with("__") && component.ends_with("__") {
        return None;
    }
    let base = name.rfind('/').map_or(0, |at| at + 1);
    let dot = name[base..].find('.').filter(|at| *at > 0)? + base;
    Some((&name[..dot], &name[dot + 1..]))
}
