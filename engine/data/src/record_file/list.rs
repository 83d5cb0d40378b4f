//! Scanner of a JSON list: finds the byte range of each element without parsing it.

use memchr::memchr;

use super::spans::Spans;

/// Scanner of a file that is fed in chunks. It tracks strings and the depth of brackets only; the contents of a record are
/// checked when it is parsed.
#[derive(Debug)]
pub(super) struct ListScanner {
    pub(super) spans: Spans,
    place: Place,
    /// Number of open brackets, that of the list included.
    depth: u32,
    in_string: bool,
    /// Number of backslashes at the end of the last chunk, if it ended within a string.
    backslashes: usize,
    /// First byte of the current record.
    start: u64,
}

/// Part of the file that the scanner is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In front of the list.
    Before,
    /// After `[`.
    First,
    /// In a record that has brackets or is a string.
    Record,
    /// In a record that is a number or a word.
    Scalar,
    /// After a record.
    Separator,
    /// After a comma.
    Next,
    /// After `]`.
    After,
}

/// Reason for which a file is not a list of records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ListFault {
    /// It is an object, or several.
    Object,
    /// Any other reason.
    Other(String),
}

/// True for the bytes that change the state within a record.
const STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

const TOO_LARGE: &str = "is larger than 4 GiB";

impl ListScanner {
    /// Creates a scanner at the start of a file.
    pub(super) fn new() -> Self {
        Self {
            spans: Spans::default(),
            place: Place::Before,
            depth: 0,
            in_string: false,
            backslashes: 0,
            start: 0,
        }
    }

    /// Scans the next chunk, which starts at byte `base` of the file.
    pub(super) fn feed(&mut self, chunk: &[u8], base: u64) -> Result<(), ListFault> {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if self.in_string {
                at = self.skip_string(chunk, at);
                if !self.in_string && self.depth == 1 {
                    self.end_record(base + at as u64)?;
                }
                continue;
            }
            if self.place == Place::Record {
                let Some(next) = chunk.iter().skip(at).position(|byte| STRUCTURAL[usize::from(*byte)]) else {
                    break;
                };
                at += next + 1;
                match chunk.get(at - 1) {
                    Some(b'"') => self.in_string = true,
                    Some(b'{' | b'[') => self.depth += 1,
                    _ => {
                        self.depth -= 1;
                        if self.depth == 1 {
                            self.end_record(base + at as u64)?;
                        }
                    }
                }
                continue;
            }
            // A scalar ends in front of this byte, which is then looked at again.
            if self.place == Place::Scalar && matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b']') {
                self.end_record(base + at as u64)?;
            } else {
                self.between_records(byte, base + at as u64)?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Handles a byte outside of records, or one within a scalar.
    fn between_records(&mut self, byte: u8, offset: u64) -> Result<(), ListFault> {
        let records = self.spans.len();
        let fault = |reason: String| Err(ListFault::Other(format!("{reason} (byte {offset} of the file)")));
        match (self.place, byte) {
            (Place::Scalar, _) | (_, b' ' | b'\t' | b'\n' | b'\r') => {}
            (Place::Before, b'[') => (self.place, self.depth) = (Place::First, 1),
            (Place::Before, b'{') => return Err(ListFault::Object),
            (Place::Before, _) => {
                return fault("is not JSON: it does not start with a list of records, `[{\"conversations\": ..}, ..]`".into());
            }
            (Place::First | Place::Separator, b']') => (self.place, self.depth) = (Place::After, 0),
            (Place::Next, b']') => return fault(format!("is not JSON: remove the comma after the last record, {}", records - 1)),
            (Place::Separator, b',') => self.place = Place::Next,
            (Place::Separator, _) => {
                return fault(format!(
                    "is not JSON: there is no comma between record {} and the next one",
                    records - 1
                ));
            }
            (Place::First | Place::Next, b',') => {
                return fault(format!(
                    "is not JSON: there is nothing before the comma where record {records} should be"
                ));
            }
            (Place::First | Place::Next, b'{' | b'[') => (self.place, self.depth, self.start) = (Place::Record, 2, offset),
            (Place::First | Place::Next, b'"') => (self.place, self.in_string, self.start) = (Place::Record, true, offset),
            (Place::First | Place::Next, _) => (self.place, self.start) = (Place::Scalar, offset),
            (Place::After, b'[' | b'{') => {
                return fault(format!(
                    "is not JSON: something follows the list of {records} record(s): if several files were concatenated, \
                     name them in `paths` instead"
                ));
            }
            (Place::After, _) => return fault(format!("is not JSON: something follows the list of {records} record(s)")),
            // `feed` handles records.
            (Place::Record, _) => {}
        }
        Ok(())
    }

    fn end_record(&mut self, end: u64) -> Result<(), ListFault> {
        self.place = Place::Separator;
        let record = self.spans.len();
        let pushed = self.spans.push(self.start..end);
        pushed.ok_or_else(|| ListFault::Other(format!("record {record} {TOO_LARGE}")))
    }

    /// Returns the position after the string that `from` is in, or the end of the chunk.
    ///
    /// It looks for quotes only, because texts in ASCII-only JSON have a backslash in front of each letter that is not
    /// ASCII. A quote ends the string unless an odd number of backslashes stands in front of it.
    fn skip_string(&mut self, chunk: &[u8], from: usize) -> usize {
        let mut rest = chunk.get(from..).unwrap_or_default();
        loop {
            let quote = memchr(b'"', rest);
            let (text, after) = rest.split_at(quote.unwrap_or(rest.len()));
            let run = text.iter().rev().take_while(|byte| **byte == b'\\').count();
            let run = if run == text.len() { run + self.backslashes } else { run };
            let Some(after) = after.get(1..) else {
                self.backslashes = run;
                return chunk.len();
            };
            self.backslashes = 0;
            rest = after;
            if run % 2 == 0 {
                self.in_string = false;
                return chunk.len() - rest.len();
            }
        }
    }

    /// Returns the start of the record that the scanner is in.
    pub(super) fn unfinished(&self) -> Option<u64> {
        matches!(self.place, Place::Record | Place::Scalar).then_some(self.start)
    }

    /// Checks that the file is complete.
    pub(super) fn finish(&self) -> Result<(), ListFault> {
        let records = self.spans.len();
        let reason = match self.place {
            Place::After => return Ok(()),
            Place::Before => "is empty: expected a list of records, `[{\"conversations\": ..}, ..]`".to_owned(),
            Place::Record | Place::Scalar => {
                format!("is not JSON: it ends within record {records}: a quote or bracket is missing there, or the file was truncated")
            }
            Place::First | Place::Next | Place::Separator => {
                format!("is not JSON: it ends after {records} record(s) without `]`; was it truncated while it was copied or written?")
            }
        };
        Err(ListFault::Other(reason))
    }
}
