//! Lines of a pod's output: output of its ranks, and its report. The table is in `render/mod.rs`.

/// A line of a pod's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Output of a rank, with its line end if it has one.
    Rank(u32, &'a [u8]),
    /// A line of the report.
    Report(&'a [u8]),
    /// A message of the start script.
    Note(&'a [u8]),
}

impl<'a> Line<'a> {
    /// Parses a line with its end.
    pub(super) fn parse(line: &'a [u8]) -> Self {
        if let Some(report) = line.strip_prefix(b"!") {
            return Self::Report(report);
        }
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rank = std::str::from_utf8(&line[..digits]).ok().and_then(|digits| digits.parse().ok());
        match (rank, line.get(digits)) {
            (Some(rank), Some(b'|')) => Self::Rank(rank, &line[digits + 1..]),
            (Some(rank), Some(b'>')) => {
                let text = &line[digits + 1..];
                Self::Rank(rank, text.strip_suffix(b"\n").unwrap_or(text))
            }
            _ => Self::Note(line),
        }
    }
}

/// Splits a line of a log with timestamps into the timestamp and the rest.
pub(super) fn with_timestamp(line: &[u8]) -> Option<(&str, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&line[..space]).ok()?;
    (time.starts_with(|c: char| c.is_ascii_digit()) && time.contains('T')).then(|| (time, &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_a_rank_the_report_or_the_script() {
        for (text, line) in [
            ("0|a|b\n", Line::Rank(0, b"a|b\n")),
            ("12|\n", Line::Rank(12, b"\n")),
            ("3>no end\n", Line::Rank(3, b"no end")),
            ("!{\"steps\":1}\n", Line::Report(b"{\"steps\":1}\n")),
            ("neva-run: x\n", Line::Note(b"neva-run: x\n")),
            ("1 x", Line::Note(b"1 x")),
            ("|x", Line::Note(b"|x")),
            ("99999999999|x", Line::Note(b"99999999999|x")),
            ("", Line::Note(b"")),
        ] {
            assert_eq!(Line::parse(text.as_bytes()), line, "{text}");
        }
        let line = b"2026-11-25T10:00:00.123456789Z 0|x y\n";
        assert_eq!(with_timestamp(line), Some(("2026-11-25T10:00:00.123456789Z", &b"0|x y\n"[..])));
        assert_eq!(with_timestamp(b"failed to watch file"), None);
    }
}
