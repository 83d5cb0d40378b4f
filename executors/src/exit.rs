//! How processes ended.

use std::process::ExitStatus;

use rustix::process::Signal;

/// How the process of a rank ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankExit {
    /// Number of the rank.
    pub rank: u32,
    /// Exit code or signal.
    pub status: ExitStatus,
    /// When it was seen, in milliseconds since the epoch.
    pub unix_ms: u64,
    /// It ended before anybody asked it to.
    pub by_itself: bool,
    /// A signal had stopped it (SIGSTOP), so that it could do nothing.
    pub stopped: bool,
}

/// `SIGKILL` and the like; the number where the name is rare.
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
    ];
    let known = names.iter().find(|(known, _)| known.as_raw() == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}
