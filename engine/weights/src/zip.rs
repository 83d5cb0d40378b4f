//! Entries of a zip archive as PyTorch writes them: not compressed, with zip64 beyond 4 GiB.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    error::Result,
    source::{AGAIN, Source},
};

/// Signature of a local header, and of a file that may be an archive.
pub(crate) const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
/// Sizes of the headers without their texts.
const LOCAL_SIZE: u64 = 30;
const CENTRAL_SIZE: usize = 46;
const END_SIZE: u64 = 22;
const LOCATOR64_SIZE: u64 = 20;
/// Maximum length of the comment at the end.
const LONGEST_COMMENT: u64 = 0xffff;
/// Maximum size of the list of entries in bytes.
const LONGEST_DIRECTORY: u64 = 256 << 20;
/// Id of the extra field with 64-bit sizes.
const ZIP64: u16 = 1;

/// Returns the bytes of each entry, by name.
pub(crate) fn entries(source: &Source) -> Result<BTreeMap<String, Range<u64>>> {
    let wrong = |reason: &str| source.wrong(format!("not a whole zip archive: {reason}"), AGAIN);
    let (start, size) = directory(source)?;
    if size > LONGEST_DIRECTORY || start.checked_add(size).is_none_or(|end| end > source.len) {
        return Err(wrong("its list of entries is not within the file"));
    }
    let directory = source.read(start, size)?;
    let (mut rest, mut entries) = (&directory[..], BTreeMap::new());
    while rest.starts_with(CENTRAL) {
        let header = rest.get(..CENTRAL_SIZE).ok_or_else(|| wrong("its list of entries ends early"))?;
        let texts = [28, 30, 32].map(|at| usize::from(u16_at(header, at)));
        let length = CENTRAL_SIZE + texts.iter().sum::<usize>();
        let entry = rest.get(..length).ok_or_else(|| wrong("its list of entries ends early"))?;
        let name = String::from_utf8_lossy(&entry[CENTRAL_SIZE..CENTRAL_SIZE + texts[0]]).into_owned();
        let extra = &entry[CENTRAL_SIZE + texts[0]..CENTRAL_SIZE + texts[0] + texts[1]];
        let mut sizes = [u32_at(header, 24), u32_at(header, 20), u32_at(header, 42)].map(u64::from);
        widen(&mut sizes, extra).ok_or_else(|| wrong("an entry has invalid sizes"))?;
        let [size, stored, local] = sizes;
        if u16_at(header, 10) != 0 || size != stored {
            return Err(source.wrong(
                format!("the entry {name} is compressed, which PyTorch does not write"),
                "save it again with torch.save, or use safetensors",
            ));
        }
        let head = source.read(local, LOCAL_SIZE).map_err(|_| wrong("an entry is beyond its end"))?;
        if !head.starts_with(LOCAL) {
            return Err(wrong("an entry has no header"));
        }
        let skipped = LOCAL_SIZE + u64::from(u16_at(&head, 26)) + u64::from(u16_at(&head, 28));
        let data = local + skipped;
        let end = data.checked_add(size).filter(|end| *end <= source.len);
        let end = end.ok_or_else(|| source.truncated(&format!("the entry {name} is beyond the end of the file")))?;
        if entries.insert(name.clone(), data..end).is_some() {
            return Err(wrong("two entries have one name"));
        }
        rest = &rest[length..];
    }
    Ok(entries)
}

/// Returns start and size of the list of entries.
fn directory(source: &Source) -> Result<(u64, u64)> {
    let tail = source.len.min(END_SIZE + LONGEST_COMMENT);
    let bytes = source.read(source.len - tail, tail)?;
    let at = bytes.windows(END.len()).rposition(|window| window == END);
    let end = at.and_then(|at| Some((at, bytes.get(at..at + END_SIZE as usize)?)));
    let Some((at, end)) = end else {
        return Err(source.truncated("the list at the end of the zip archive is missing"));
    };
    let (size, start) = (u32_at(end, 12), u32_at(end, 16));
    let position = source.len - tail + at as u64;
    if (size != u32::MAX && start != u32::MAX && u16_at(end, 10) != u16::MAX) || position < LOCATOR64_SIZE {
        return Ok((u64::from(start), u64::from(size)));
    }
    let locator = source.read(position - LOCATOR64_SIZE, LOCATOR64_SIZE)?;
    if !locator.starts_with(LOCATOR64) {
        return Ok((u64::from(start), u64::from(size)));
    }
    let record = source.read(u64_at(&locator, 8), 56)?;
    if !record.starts_with(END64) {
        return Err(source.wrong("not a whole zip archive: its list of entries is missing", AGAIN));
    }
    Ok((u64_at(&record, 48), u64_at(&record, 40)))
}

/// Replaces sizes that do not fit 32 bits by those of the extra field.
fn widen(sizes: &mut [u64; 3], extra: &[u8]) -> Option<()> {
    let mut rest = extra;
    while rest.len() >= 4 {
        let (id, length) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
        let mut content = rest.get(4..4 + length)?;
        if id == ZIP64 {
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = u64_at(content.get(..8)?, 0);
                content = &content[8..];
            }
        }
        rest = &rest[4 + length..];
    }
    // Added to the sizes of headers without an overflow.
    sizes.iter().all(|size| *size < 1 << 62).then_some(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
