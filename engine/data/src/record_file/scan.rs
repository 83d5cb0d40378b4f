//! Finds the records of a file, and explains what is not a file of records.

use std::{io, path::Path};

use serde::de::IgnoredAny;

use super::{
    CHUNK, Form, encoding, file_problem,
    lines::LineScanner,
    list::{ListFault, ListScanner},
    parse,
    saved_index::Index,
};
use crate::problem::Problem;

/// Scans a file. `read` returns the bytes at an offset; `whole` is false if the file continues after its last byte.
pub(super) fn scan(path: &Path, read: impl Fn(&mut [u8], u64) -> io::Result<usize>, whole: bool) -> Result<Index, Problem> {
    let form = Form::of(path);
    let mut hasher = blake3::Hasher::new();
    let (mut list, mut lines) = (ListScanner::new(), LineScanner::default());
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let chunk = fill(&read, &mut buffer, offset).map_err(|error| file_problem(path, format!("cannot be read: {error}")))?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(chunk);
        let start = match offset {
            0 => first_byte(chunk, form, path)?,
            _ => 0,
        };
        let (text, base) = (chunk.get(start..).unwrap_or_default(), offset + start as u64);
        let outcome = match form {
            Form::List => list.feed(text, base),
            Form::Lines => lines.feed(text, base).map_err(ListFault::Other),
        };
        outcome.map_err(|fault| explain(path, fault, &list, &read))?;
        offset += chunk.len() as u64;
    }
    let spans = match form {
        Form::List if whole => list
            .finish()
            .map_err(|fault| explain(path, fault, &list, &read))
            .map(|()| list.spans)?,
        Form::List => list.spans,
        Form::Lines => {
            if whole {
                lines.finish().map_err(|reason| file_problem(path, reason))?;
            }
            lines.spans
        }
    };
    let fingerprint = *hasher.finalize().as_bytes();
    Ok(Index { form, spans, fingerprint })
}

/// Reads until the buffer is full or the file ends.
fn fill(read: impl Fn(&mut [u8], u64) -> io::Result<usize>, buffer: &mut [u8], offset: u64) -> io::Result<&[u8]> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

/// Returns the length of the byte order mark. Refuses encodings that are not UTF-8, and a list in a file of lines.
fn first_byte(chunk: &[u8], form: Form, path: &Path) -> Result<usize, Problem> {
    let head = chunk.get(..chunk.len().min(encoding::HEAD)).unwrap_or_default();
    let mark = encoding::byte_order_mark(head, path).map_err(|reason| file_problem(path, reason))?;
    let text = chunk.get(mark..).unwrap_or_default().trim_ascii_start();
    if form == Form::Lines && text.first() == Some(&b'[') {
        let reason = "is one JSON list, not one record a line: rename it to `.json`";
        return Err(file_problem(path, reason.to_owned()));
    }
    Ok(mark)
}

/// Returns the problem of a file that is not a list. The first record that is not JSON is a better explanation than what
/// the scanner met after it.
fn explain(path: &Path, fault: ListFault, list: &ListScanner, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> Problem {
    let bytes = |start: u64, len: usize| {
        let mut bytes = vec![0; len];
        let found = fill(&read, &mut bytes, start).map(<[u8]>::len).unwrap_or_default();
        bytes.truncate(found);
        bytes
    };
    let reason = match fault {
        ListFault::Object => {
            let head = bytes(0, CHUNK);
            let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
            let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
            if values.next().is_some_and(|value| value.is_ok()) && values.next().is_some() {
                "has several objects that are not in a list: if it has one record a line, rename it to `.jsonl`".to_owned()
            } else {
                "expected a list of records, `[{\"conversations\": ..}, ..]`, found one object".to_owned()
            }
        }
        ListFault::Other(reason) => {
            for index in 0..list.spans.len() {
                let Some(range) = list.spans.get(index) else { break };
                let bytes = bytes(range.start, (range.end - range.start) as usize);
                if let Err(reason) = parse::parse(&bytes, range.start, path) {
                    return Problem {
                        record: Some(index),
                        ..file_problem(path, reason)
                    };
                }
            }
            // A missing quote or bracket makes all that follows a part of this record.
            let start = list.unfinished();
            let rest = start.map(|start| bytes(start, CHUNK)).unwrap_or_default();
            let is_wrong = serde_json::from_slice::<IgnoredAny>(&rest).is_err_and(|error| !error.is_eof());
            match parse::parse(&rest, start.unwrap_or_default(), path) {
                Err(reason) if is_wrong => {
                    return Problem {
                        record: Some(list.spans.len()),
                        ..file_problem(path, reason)
                    };
                }
                _ => reason,
            }
        }
    };
    file_problem(path, reason)
}
