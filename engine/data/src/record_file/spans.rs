//! Byte ranges of the records of a file, in about eight bytes each.

use std::{
    io::{self, Read, Write},
    ops::Range,
};

/// Number of records that share an anchor.
const GROUP: usize = 64;

/// Byte ranges of records in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// Start of the first record of each group.
    anchors: Vec<u64>,
    /// Start of each record after its group's anchor, and its length.
    spans: Vec<[u32; 2]>,
}

impl Spans {
    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Appends a range. Returns `None` if a record or a group of them is larger than 4 GiB.
    pub(super) fn push(&mut self, range: Range<u64>) -> Option<()> {
        if self.spans.len().is_multiple_of(GROUP) {
            self.anchors.push(range.start);
        }
        let start = range.start.checked_sub(*self.anchors.last()?)?;
        let len = range.end.checked_sub(range.start)?;
        self.spans.push([u32::try_from(start).ok()?, u32::try_from(len).ok()?]);
        Some(())
    }

    /// Returns the byte range of a record.
    pub(super) fn get(&self, index: usize) -> Option<Range<u64>> {
        let [start, len] = *self.spans.get(index)?;
        let start = self.anchors.get(index / GROUP)? + u64::from(start);
        Some(start..start + u64::from(len))
    }

    /// Writes all ranges.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(self.spans.len() as u64).to_le_bytes())?;
        for anchor in &self.anchors {
            out.write_all(&anchor.to_le_bytes())?;
        }
        for [start, len] in &self.spans {
            out.write_all(&start.to_le_bytes())?;
            out.write_all(&len.to_le_bytes())?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote. `most` is an upper limit of the number of records.
    pub(super) fn read(file: &mut impl Read, most: u64) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut word = [0; 8];
        file.read_exact(&mut word)?;
        let records = u64::from_le_bytes(word);
        let records = usize::try_from(records.min(most))
            .ok()
            .filter(|len| *len as u64 == records)
            .ok_or_else(invalid)?;
        let mut found = Self {
            anchors: Vec::with_capacity(records.div_ceil(GROUP)),
            spans: Vec::with_capacity(records),
        };
        each_word(file, records.div_ceil(GROUP), |word| found.anchors.push(u64::from_le_bytes(word)))?;
        each_word(file, records, |word| {
            let word = u64::from_le_bytes(word);
            found.spans.push([word as u32, (word >> 32) as u32]);
        })?;
        Ok(found)
    }
}

/// Reads `count` words of eight bytes, a few thousand at a time.
fn each_word(file: &mut impl Read, count: usize, mut visit: impl FnMut([u8; 8])) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 13];
    let mut left = count * 8;
    while left > 0 {
        let part = buffer.get_mut(..left.min(8 << 13)).unwrap_or_default();
        file.read_exact(part)?;
        left -= part.len();
        part.as_chunks::<8>().0.iter().for_each(|word| visit(*word));
    }
    Ok(())
}
