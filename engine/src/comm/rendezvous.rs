//! Rendezvous of the ranks of a run: torchrun's variables, c10d's TCP store, and the handshake.

use super::gloo::GlooFactory;
use super::handshake::{Handshake, difference};
use super::process_group::ProcessGroupFactory;
use crate::comm_error::CommError;
use neva_schemas::RankEnv;
use neva_torch_ffi::{Bind, Store, TcpStore};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Extra time after the deadline for c10d's own error.
const SLACK: Duration = Duration::from_secs(1);

/// Longest timeout: it can be added to an `Instant` without overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shortest wait of the store: zero means no deadline.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// Time between two checks for a stop request.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time between two checks of rank 0 for a reported mismatch.
const MISMATCH_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Time that rank 0 keeps the store open for the others to read a mismatch.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connected ranks and their store. It is held as long as the run: the server must outlive the last use by any rank.
#[derive(Debug)]
pub struct Rendezvous {
    /// Creates the process groups.
    pub factory: GlooFactory,
    /// Data of rank 0, the same on all ranks.
    pub from_first: Vec<u8>,
    /// The store below this attempt's prefix.
    own: Store,
    /// Connection to the store, and on rank 0 its server.
    _store: TcpStore,
    address: String,
    rank: u32,
}

/// Connects to the other ranks, sends `from_first` of rank 0 to all, and compares the handshakes. Ends early if
/// `asked_to_stop` returns true.
///
/// # Errors
/// The store cannot be reached in time, or handshakes differ: every rank reports each difference and the rank.
pub fn rendezvous(
    rank: &RankEnv,
    handshake: &Handshake,
    from_first: &[u8],
    timeout: Duration,
    asked_to_stop: &dyn Fn() -> bool,
) -> Result<Rendezvous, CommError> {
    let address = format!("{}:{}", rank.master_addr, rank.master_port);
    let failed = |reason: String| CommError::Rendezvous {
        address: address.clone(),
        reason,
    };
    let own = serde_json::to_vec(handshake).map_err(|error| failed(error.to_string()))?;
    let (sender, receiver) = channel();
    let (rank_env, from_first) = (rank.clone(), from_first.to_vec());
    let limit = timeout.min(MAX_TIMEOUT);
    let deadline = Deadline {
        until: Instant::now() + limit,
        gave_up: Arc::default(),
    };
    let gave_up = deadline.gave_up.clone();
    // If another program listens on the port, c10d waits for it forever. The thread is abandoned then, and the rank
    // ends.
    let connect = move || sender.send(connect(&rank_env, &own, &from_first, &deadline));
    std::thread::Builder::new()
        .name("rendezvous".into())
        .spawn(connect)
        .map_err(|error| failed(error.to_string()))?;
    let connected = receive(&receiver, limit + SLACK, asked_to_stop);
    // The store server must end soon after the rank stops waiting.
    gave_up.store(true, Ordering::Relaxed);
    let connected = connected?.unwrap_or_else(|| {
        let seconds = timeout.as_secs_f64();
        Err(HandshakeError::Store(format!(
            "no store of a run answered there in {seconds:.0} s: is rank 0 running, and are MASTER_ADDR and MASTER_PORT those of rank 0?"
        )))
    });
    let Joined {
        store,
        own,
        of_groups,
        from_first,
    } = connected.map_err(|error| match error {
        HandshakeError::Store(reason) => failed(reason),
        HandshakeError::Differs(text) => CommError::HandshakeMismatch(text),
    })?;
    let bind = own_address(&rank.master_addr).map_or(Bind::Default, Bind::Hostname);
    let factory = GlooFactory::new(of_groups, rank.rank as usize, rank.world_size as usize, timeout, bind);
    Ok(Rendezvous {
        factory,
        from_first,
        own,
        _store: store,
        address,
        rank: rank.rank,
    })
}

/// Waits for a value; `None` if none comes within `limit`.
fn receive<T>(receiver: &Receiver<T>, limit: Duration, asked_to_stop: &dyn Fn() -> bool) -> Result<Option<T>, CommError> {
    let until = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(STOP_POLL_INTERVAL) {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Timeout) if asked_to_stop() => return Err(CommError::Stopped),
            Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommError::Bug("the rendezvous thread panicked".into()));
            }
        }
    }
}

/// What a rank has after the handshake. Everything that may wait for rank 0 is done in the thread that can be given up.
struct Joined {
    /// Connection to the store.
    store: TcpStore,
    /// The store below this attempt's prefix.
    own: Store,
    /// The same through a connection of its own, for process groups.
    of_groups: Store,
    /// Data of rank 0.
    from_first: Vec<u8>,
}

/// Deadline of the rendezvous thread, which the waiting rank can end early.
struct Deadline {
    until: Instant,
    gave_up: Arc<AtomicBool>,
}

impl Deadline {
    /// Returns the time left, at least [`MIN_WAIT`].
    fn left(&self) -> Duration {
        if self.gave_up.load(Ordering::Relaxed) {
            return MIN_WAIT;
        }
        self.until.saturating_duration_since(Instant::now()).max(MIN_WAIT)
    }
}

fn connect(rank: &RankEnv, handshake: &[u8], from_first: &[u8], deadline: &Deadline) -> Result<Joined, HandshakeError> {
    let left = || deadline.left();
    let serve = rank.rank == 0 && !rank.agent_store;
    let open = if serve { TcpStore::server } else { TcpStore::client };
    let store = open(&rank.master_addr, rank.master_port, rank.world_size as usize, left())?;
    // torchrun's agent keeps its store across restarts, with the keys of the previous attempts.
    let shared = store.prefixed(&format!("neva/attempt_{}", rank.restart_count))?;
    if rank.rank == 0 {
        shared.set("from_first", from_first)?;
        shared.set("handshake", handshake)?;
        check_all_ranks(&shared, rank.world_size, &left)?;
    } else {
        match difference(&shared.get("handshake", left())?, handshake, rank.rank) {
            Some(differs) => shared.set("outcome", differs.as_bytes())?,
            None => shared.set(&format!("same/{}", rank.rank), b"1")?,
        }
        let outcome = shared.get("outcome", left())?;
        if !outcome.is_empty() {
            shared.set(&format!("notified/{}", rank.rank), b"1")?;
            return Err(HandshakeError::Differs(String::from_utf8_lossy(&outcome).into_owned()));
        }
    }
    let from_first = shared.get("from_first", left())?;
    Ok(Joined {
        store,
        of_groups: shared.try_clone()?,
        own: shared,
        from_first,
    })
}

/// Runs on rank 0: waits until every rank reports an equal handshake and publishes the outcome. A rank that differs
/// publishes the outcome itself.
fn check_all_ranks(shared: &Store, world: u32, left: &dyn Fn() -> Duration) -> Result<(), HandshakeError> {
    for rank in 1..world {
        let same = format!("same/{rank}");
        while let Err(error) = shared.wait(&[&same], left().min(MISMATCH_POLL_INTERVAL)) {
            if shared.check(&["outcome"])? {
                return Err(HandshakeError::Differs(notify_all_ranks(shared, world, left)?));
            }
            if left() <= MIN_WAIT {
                return Err(HandshakeError::Store(format!("rank {rank} did not connect: {error}")));
            }
        }
    }
    Ok(shared.set("outcome", b"")?)
}

/// Returns the difference after all ranks have read it, or after a timeout: rank 0 serves the store.
fn notify_all_ranks(shared: &Store, world: u32, left: &dyn Fn() -> Duration) -> Result<String, HandshakeError> {
    let outcome = shared.get("outcome", MISMATCH_POLL_INTERVAL)?;
    let notified: Vec<_> = (1..world).map(|rank| format!("notified/{rank}")).collect();
    let notified: Vec<_> = notified.iter().map(String::as_str).collect();
    let _ = shared.wait(&notified, NOTIFY_TIMEOUT.min(left() + SLACK / 2));
    Ok(String::from_utf8_lossy(&outcome).into_owned())
}

impl Rendezvous {
    /// Returns the store for keys of this attempt below `prefix`.
    ///
    /// # Errors
    /// The store failed.
    pub fn store(&self, prefix: &str) -> Result<Store, CommError> {
        self.own.prefixed(prefix).map_err(|error| CommError::Rendezvous {
            address: self.address.clone(),
            reason: error.to_string(),
        })
    }

    /// Disconnects. Rank 0, which may serve the store, waits up to `deadline` for the other ranks.
    pub fn leave(self, deadline: Duration) {
        let Ok(store) = self.own.prefixed("leave") else { return };
        let key = |rank: u32| format!("rank{rank}");
        if store.set(&key(self.rank), b"1").is_ok() && self.rank == 0 {
            let keys: Vec<_> = (0..self.factory.world() as u32).map(key).collect();
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            // A rank that does not disconnect has failed and reports that itself.
            let _ = store.wait(&keys, deadline);
        }
    }
}

enum HandshakeError {
    Store(String),
    Differs(String),
}

impl From<neva_torch_ffi::Error> for HandshakeError {
    fn from(error: neva_torch_ffi::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Returns the address of this machine on the route to the master, which the other ranks can reach.
fn own_address(master: &str) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Connecting a datagram socket sends nothing; it only chooses the route.
    socket.connect((master, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
