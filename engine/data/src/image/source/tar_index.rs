//! Positions of the files in a tar archive.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Component, Path},
};

use tar::Archive;

use crate::compression::unpacking_program;

/// Names of the regular files of an archive, with their positions, sorted.
#[derive(Debug)]
pub(super) struct TarIndex {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: Box<str>,
    offset: u64,
    size: u64,
}

impl TarIndex {
    /// Reads all headers. Of files with the same name, the last one counts, as when the archive is unpacked.
    pub(super) fn read(file: &File) -> Result<Self, String> {
        let len = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
        let mut magic = [0; 6];
        if file.read_exact_at(&mut magic, 0).is_ok()
            && let Some(program) = unpacking_program(&magic)
        {
            return Err(format!(
                "is compressed: files within it cannot be read in any order; unpack it with `{program}`"
            ));
        }
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                "is no tar archive, or not a complete one".to_owned()
            }
            _ => format!("cannot be read: {error}"),
        };
        let mut archive = Archive::new(file);
        let mut members = Vec::new();
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let kind = entry.header().entry_type();
            let name = normalized(&String::from_utf8_lossy(&entry.path_bytes()));
            if kind.is_gnu_sparse() {
                return Err(format!(
                    "has the sparse file {name}, which is not supported: pack it without `--sparse`"
                ));
            }
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > len) {
                return Err(format!("is cut off within {name}, at byte {len}: copy or download it again"));
            }
            // The name of an old archive's folder ends with a slash.
            if (kind.is_file() || kind.is_contiguous()) && !entry.path_bytes().ends_with(b"/") {
                members.push(Member {
                    name: name.into(),
                    offset,
                    size,
                });
            }
        }
        if members.is_empty() && !is_empty_archive(file) {
            return Err("is no tar archive".to_owned());
        }
        members.sort_by(|a, b| a.name.cmp(&b.name).then(b.offset.cmp(&a.offset)));
        members.dedup_by(|later, kept| later.name == kept.name);
        Ok(Self { members })
    }

    /// Returns position and size of a file.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let name = normalized(name);
        let at = self.members.binary_search_by(|member| (*member.name).cmp(&name)).ok()?;
        let member = self.members.get(at)?;
        Some((member.offset, member.size))
    }
}

/// Returns a path without `.`, and with `..` applied.
fn normalized(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir if parts.pop().is_none() => parts.push(".."),
            _ => {}
        }
    }
    parts.join("/")
}

/// Returns whether the archive starts with a block of zeros, its end.
fn is_empty_archive(file: &File) -> bool {
    let mut block = [1; 512];
    file.read_exact_at(&mut block, 0).is_ok() && block.iter().all(|&byte| byte == 0)
}
