//! Signals that ask this program to end, as requests.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::error::RunError;

/// The next request to end. Never comes where nobody can ask any more.
pub(crate) async fn requested(end: &mut watch::Receiver<u32>) {
    if end.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Counts each signal that asks this program to end, from now on, as a request.
pub(crate) fn forward_signals(requests: watch::Sender<u32>) -> Result<(), RunError> {
    let mut signals = EndSignals::listen().map_err(|source| RunError::System {
        action: "listen for signals",
        source,
    })?;
    tokio::spawn(async move {
        loop {
            signals.next().await;
            tracing::warn!("ending the run; once more kills it");
            requests.send_modify(|count| *count += 1);
        }
    });
    Ok(())
}

/// The signals that ask a program to end: those of a terminal and of a system that shuts down, and the one
/// that schedulers send before a job's time is over.
struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl EndSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            _ = self.user.recv() => {}
        }
    }
}
