//! Signals on which a run saves and stops, and signal masks of a process.

use std::fmt;

/// A signal that requests a run to save and stop. The launcher forwards it to its ranks, and `report.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StopSignal {
    /// SIGTERM: `kill`, system shutdown, a cancelled job.
    #[default]
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal was closed.
    Hangup,
    /// SIGUSR1, which Slurm sends before a time limit.
    User1,
}

impl StopSignal {
    /// All stop signals.
    pub const ALL: [Self; 4] = [Self::Terminate, Self::Interrupt, Self::Hangup, Self::User1];

    /// Returns the signal number on Linux.
    pub const fn number(self) -> i32 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::User1 => 10,
            Self::Terminate => 15,
        }
    }

    /// Returns the name, such as `SIGTERM`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::User1 => "SIGUSR1",
            Self::Terminate => "SIGTERM",
        }
    }

    /// Returns the stop signal with a number.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// File of Linux with the signal masks of this process, for [`SignalMasks::parse`].
pub const SIGNAL_MASKS_FILE: &str = "/proc/self/status";

/// Signal masks of a process. `nohup`, and a shell script that starts a program in the background, make it ignore
/// some signals; these stay ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalMasks {
    ignored: u64,
    caught: u64,
}

impl SignalMasks {
    /// Parses the text of [`SIGNAL_MASKS_FILE`]. Missing lines count as empty masks.
    pub fn parse(status: &str) -> Self {
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
        };
        Self {
            ignored: mask("SigIgn:"),
            caught: mask("SigCgt:"),
        }
    }

    /// Returns whether the process ignores the signal of this number.
    pub fn ignores(&self, number: i32) -> bool {
        has(self.ignored, number)
    }

    /// Returns whether the process has a handler for the signal of this number.
    pub fn catches(&self, number: i32) -> bool {
        has(self.caught, number)
    }
}

/// Returns true if the mask contains a signal. Signal 1 is the lowest bit.
fn has(mask: u64, number: i32) -> bool {
    u32::try_from(number - 1).is_ok_and(|bit| mask.checked_shr(bit).is_some_and(|mask| mask & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_masks_from_the_status_of_a_process() {
        let masks = SignalMasks::parse("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000180004002\n");
        assert!(masks.ignores(1) && masks.ignores(13) && !masks.ignores(2));
        assert!(masks.catches(2) && masks.catches(15) && masks.catches(32) && !masks.catches(1));
        let none = SignalMasks::parse("SigIgn:\tnonsense\n");
        assert!(
            [0, 1, 64, 65, -3]
                .iter()
                .all(|signal| !none.ignores(*signal) && !none.catches(*signal))
        );
    }

    #[test]
    fn each_number_is_one_signal() {
        for signal in StopSignal::ALL {
            assert_eq!(StopSignal::from_number(signal.number()), Some(signal));
        }
        assert_eq!(StopSignal::from_number(9), None);
    }
}
