//! The signal before the time limit.

use super::SlurmExecutorConfig;
use crate::stop_signal::StopSignal;

/// Seconds before the limit if the signal names none, as in Slurm.
const DEFAULT_S: u64 = 60;
/// Slurm's maximum, in seconds.
const MAX_S: u64 = 65_535;

/// A signal before the time limit: `[B:]NAME[@SECONDS]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlurmSignal {
    /// Only the batch script receives it, and forwards it to the ranks.
    pub to_script: bool,
    /// The signal.
    pub signal: StopSignal,
    /// Seconds before the time limit.
    pub seconds: u64,
}

impl SlurmSignal {
    /// Parses `[B:]NAME[@SECONDS]`; a name may have the prefix `SIG`, and a number is a name.
    ///
    /// # Errors
    /// A message: another form, or a signal on which ranks do not stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a signal: write `NAME@SECONDS`, as `USR1@120`, or `B:USR1@120` for the batch script only");
        let (to_script, rest) = match text.split_once(':') {
            Some((flag, rest)) if flag.eq_ignore_ascii_case("B") => (true, rest),
            Some((flag, rest)) if flag.eq_ignore_ascii_case("R") => (false, rest),
            Some(_) => return Err(form()),
            None => (false, text),
        };
        let (name, seconds) = match rest.split_once('@') {
            Some((name, seconds)) => (name, seconds.parse().ok().filter(|seconds| *seconds <= MAX_S).ok_or_else(form)?),
            None => (rest, DEFAULT_S),
        };
        let upper = name.to_ascii_uppercase();
        let known = StopSignal::ALL.into_iter().find(|signal| {
            let full = signal.name();
            upper == full || full.strip_prefix("SIG") == Some(&upper) || upper == signal.number().to_string()
        });
        match known {
            Some(signal) => Ok(Self {
                to_script,
                signal,
                seconds,
            }),
            None if upper.chars().all(|c| c.is_ascii_alphanumeric()) && !upper.is_empty() => Err(format!(
                "the ranks do not save and stop on the signal {name}: use one of {}",
                StopSignal::ALL.map(|signal| signal.name().trim_start_matches("SIG")).join(", ")
            )),
            None => Err(form()),
        }
    }
}

impl SlurmExecutorConfig {
    /// Returns the signal before the time limit, `None` without one or if it is not valid.
    pub fn stop_signal(&self) -> Option<SlurmSignal> {
        match (&self.signal, self.signal_s) {
            (Some(text), _) => SlurmSignal::parse(text).ok(),
            (None, Some(seconds)) if seconds > 0 => Some(SlurmSignal {
                to_script: false,
                signal: StopSignal::User1,
                seconds,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signals_on_which_ranks_stop() {
        let signal = |to_script, signal, seconds| SlurmSignal {
            to_script,
            signal,
            seconds,
        };
        for (text, expected) in [
            ("USR1@120", signal(false, StopSignal::User1, 120)),
            ("sigterm@30", signal(false, StopSignal::Terminate, 30)),
            ("B:10@5", signal(true, StopSignal::User1, 5)),
            ("R:INT", signal(false, StopSignal::Interrupt, 60)),
        ] {
            assert_eq!(SlurmSignal::parse(text), Ok(expected), "{text}");
        }
        for (text, message) in [
            ("USR2@10", "the ranks do not save"),
            ("KILL", "the ranks do not save"),
            ("@60", "not a signal"),
        ] {
            assert!(SlurmSignal::parse(text).unwrap_err().contains(message), "{text}");
        }
        for text in ["", "USR1@", "USR1@x", "X:USR1@1", "USR1@70000", "USR1 @1"] {
            assert!(SlurmSignal::parse(text).is_err(), "{text}");
        }
    }
}
