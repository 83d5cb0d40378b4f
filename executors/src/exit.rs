//! Exits of rank processes.

use std::process::ExitStatus;

use rustix::process::Signal;

/// Exit of a rank's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankExit {
    /// Rank.
    pub rank: u32,
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Time at which it was observed, in milliseconds since the epoch.
    pub unix_ms: u64,
    /// True if it ended without a signal from the launcher.
    pub by_itself: bool,
    /// True if it was stopped by a signal (SIGSTOP).
    pub stopped: bool,
}

/// Returns the name of a signal, such as `SIGKILL`, or its number if the name is rare.
pub(crate) fn signal_name(signal: i32) -> String {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::SYS, "SIGSYS"),
    ];
    let known = names.iter().find(|(known, _)| known.as_raw() == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}
