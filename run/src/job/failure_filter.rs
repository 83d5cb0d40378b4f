//! Removes the final error report from rank 0's output: the launcher prints it.

use neva_executors::{JobKind, JobState};

/// Prefix of a rank's error report, at the start of a line.
const PREFIX: &[u8] = b"error: ";

/// Filter of rank 0's output. A failing rank prints an error report before it ends. Lines that look like one are held
/// back until further output or the end of the job shows whether they are.
pub(super) struct FailureFilter {
    kind: JobKind,
    /// Bytes held back so far.
    held: Vec<u8>,
    /// The next byte starts a line.
    at_start: bool,
}

impl FailureFilter {
    /// Creates the filter of a job that is about to start. Output of scripts is not filtered.
    pub(super) fn new(kind: JobKind) -> Self {
        Self {
            kind,
            held: Vec::new(),
            at_start: true,
        }
    }

    /// Returns the part of the output so far that can be shown now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.kind == JobKind::Script || bytes.is_empty() {
            return bytes.to_vec();
        }
        let mut shown = Vec::new();
        // A complete line that is followed by output was not the last one.
        if self.held.ends_with(b"\n") {
            shown.append(&mut self.held);
        }
        let mut rest = std::mem::take(&mut self.held);
        rest.extend_from_slice(bytes);
        let mut at = 0;
        while at < rest.len() {
            let line = &rest[at..];
            if self.at_start && (line.starts_with(PREFIX) || PREFIX.starts_with(line)) {
                self.held = line.to_vec();
                break;
            }
            let end = line.iter().position(|byte| *byte == b'\n').map_or(line.len(), |end| end + 1);
            self.at_start = line[..end].ends_with(b"\n");
            at += end;
        }
        shown.extend_from_slice(&rest[..at]);
        shown
    }

    /// Returns the output that is left to show after the job ended with `state`. The report of rank 0 is dropped if the
    /// launcher prints it, or prints the failure of another rank that caused it.
    pub(super) fn end(&mut self, state: &JobState) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let JobState::Failed(failure) = state else { return held };
        let reported = match failure.rank {
            Some(0) => {
                let help = failure.help.as_ref().map_or_else(String::new, |help| format!("help: {help}\n"));
                held == format!("error: {}\n{help}", failure.chain.join(": ")).into_bytes()
            }
            Some(_) => held.starts_with(PREFIX),
            None => false,
        };
        if reported { Vec::new() } else { held }
    }
}

#[cfg(test)]
mod tests {
    use neva_executors::JobFailure;

    use super::*;

    fn failure(rank: u32, chain: &str) -> JobFailure {
        let failure = serde_json::json!({
            "class": 1, "rank": rank, "step": null, "chain": [chain], "help": null, "others": 0, "log": null, "tail": [],
        });
        serde_json::from_value(failure).unwrap()
    }

    /// Checks that `shown` remains of `output`, split at any byte, if `rank` failed with `chain`.
    #[track_caller]
    fn check(rank: u32, chain: &str, output: &str, shown: &str) {
        let failure = failure(rank, chain);
        for at in 0..=output.len() {
            let mut filter = FailureFilter::new(JobKind::Ranks);
            let (first, second) = output.as_bytes().split_at(at);
            let all = [
                filter.pass(first),
                filter.pass(second),
                filter.end(&JobState::Failed(failure.clone())),
            ]
            .concat();
            assert_eq!(String::from_utf8(all).unwrap(), shown, "split at {at}");
        }
    }

    #[test]
    fn removes_only_the_reported_error() {
        check(0, "no cat", "step 1\nerror: no cat\n", "step 1\n");
        check(0, "no cat", "error: no cat\n", "");
        check(0, "no cat", "an error: no cat\n", "an error: no cat\n");
        check(0, "no cat", "error: no dog\nerr\n", "error: no dog\nerr\n");
        check(1, "no cat", "step 1\nerror: rank 1 is gone\n", "step 1\n");
    }

    #[test]
    fn removes_an_error_of_several_lines() {
        let state = JobState::Failed(failure(0, "no cat\nof 2 lines"));
        let mut filter = FailureFilter::new(JobKind::Ranks);
        assert_eq!(filter.pass(b"step 1\nerror: no cat\nof 2 lines\n"), b"step 1\n");
        assert_eq!(filter.end(&state), b"");
    }

    #[test]
    fn passes_all_output_of_a_script() {
        let mut filter = FailureFilter::new(JobKind::Script);
        assert_eq!(filter.pass(b"error: mine\n"), b"error: mine\n");
    }
}
