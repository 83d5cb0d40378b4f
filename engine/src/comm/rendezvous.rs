//! How the ranks of a run meet: torchrun's variables, c10d's TCP store, and a comparison of what each
//! rank believes it is about to do.

use super::collective::{CommError, Fabric};
use super::gloo::GlooFabric;
use super::greeting::{Greeting, difference};
use neva_schemas::RankEnv;
use neva_torch_ffi::{Bind, Store, TcpStore};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long c10d's own words are waited for behind the deadline.
const SLACK: Duration = Duration::from_secs(1);

/// As good as for ever, and a time that can be added to the clock's.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The shortest wait there is.
const AN_INSTANT: Duration = Duration::from_millis(1);

/// How often a rank that waits looks whether it is asked to stop.
const TICK: Duration = Duration::from_millis(50);

/// How often rank 0 looks for a rank that differs while it waits for another one.
const LOOK: Duration = Duration::from_millis(200);

/// How long rank 0 keeps the store for the others to learn that they do not belong together.
const HEARD: Duration = Duration::from_secs(5);

/// A store that is kept as long as the run: its server must outlive the ranks' last use.
#[derive(Debug)]
pub struct Meeting {
    /// Makes the groups.
    pub fabric: GlooFabric,
    /// The data that rank 0 brought.
    pub from_first: Vec<u8>,
    /// This attempt's part of the store.
    own: Store,
    /// Its server lives here where this rank serves it.
    _store: TcpStore,
    address: String,
    rank: u32,
}

/// Meets the other ranks, hands `from_first` of rank 0 to all, and compares greetings, unless `asked_to_stop` meanwhile.
///
/// # Errors
/// The store cannot be reached in time, or ranks differ: each difference and the rank are named, on every rank.
pub fn rendezvous(
    rank: &RankEnv,
    greeting: &Greeting,
    from_first: &[u8],
    timeout: Duration,
    asked_to_stop: &dyn Fn() -> bool,
) -> Result<Meeting, CommError> {
    let address = format!("{}:{}", rank.master_addr, rank.master_port);
    let failed = |reason: String| CommError::Rendezvous {
        address: address.clone(),
        reason,
    };
    let own = serde_json::to_vec(greeting).map_err(|error| failed(error.to_string()))?;
    let (sender, receiver) = channel();
    let (rank_env, from_first) = (rank.clone(), from_first.to_vec());
    let patience = timeout.min(A_YEAR);
    let clock = Clock {
        until: Instant::now() + patience,
        given_up: Arc::default(),
    };
    let given_up = clock.given_up.clone();
    // Whatever answers at the port may never say a word, and c10d would wait for it without end. A thread that does is
    // left behind; the rank ends.
    let meet = move || sender.send(meet(&rank_env, &own, &from_first, &clock));
    std::thread::Builder::new()
        .name("rendezvous".into())
        .spawn(meet)
        .map_err(|error| failed(error.to_string()))?;
    let met = within(&receiver, patience + SLACK, asked_to_stop);
    // A store that is served must not outlive a rank that does not wait for the others any more.
    given_up.store(true, Ordering::Relaxed);
    let met = met?.unwrap_or_else(|| {
        let seconds = timeout.as_secs_f64();
        Err(Met::Store(format!(
            "no store of a run answered there in {seconds:.0} s: is rank 0 running, and are MASTER_ADDR and MASTER_PORT those of rank 0?"
        )))
    });
    let (store, shared, from_first) = met.map_err(|error| match error {
        Met::Store(reason) => failed(reason),
        Met::Differs(text) => CommError::Strangers(text),
    })?;
    let bind = own_address(&rank.master_addr).map_or(Bind::Default, Bind::Hostname);
    let clone = shared.try_clone().map_err(|error| failed(error.to_string()))?;
    let fabric = GlooFabric::new(clone, rank.rank as usize, rank.world_size as usize, timeout, bind);
    Ok(Meeting {
        fabric,
        from_first,
        own: shared,
        _store: store,
        address,
        rank: rank.rank,
    })
}

/// What comes within `limit`; `None` where nothing does.
fn within<T>(receiver: &Receiver<T>, limit: Duration, asked_to_stop: &dyn Fn() -> bool) -> Result<Option<T>, CommError> {
    let until = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Timeout) if asked_to_stop() => return Err(CommError::Stopped),
            Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CommError::Bug("the thread that meets the other ranks panicked".into()));
            }
        }
    }
}

/// The store's connection, this attempt's part of it, and what rank 0 brought.
type Joined = (TcpStore, Store, Vec<u8>);

/// How long there is still somebody who waits.
struct Clock {
    until: Instant,
    given_up: Arc<AtomicBool>,
}

impl Clock {
    /// At least a millisecond, as no time at all would mean for ever.
    fn left(&self) -> Duration {
        if self.given_up.load(Ordering::Relaxed) {
            return AN_INSTANT;
        }
        self.until.saturating_duration_since(Instant::now()).max(AN_INSTANT)
    }
}

fn meet(rank: &RankEnv, greeting: &[u8], from_first: &[u8], clock: &Clock) -> Result<Joined, Met> {
    let left = || clock.left();
    let serve = rank.rank == 0 && !rank.agent_store;
    let open = if serve { TcpStore::server } else { TcpStore::client };
    let store = open(&rank.master_addr, rank.master_port, rank.world_size as usize, left())?;
    // torchrun's agent keeps its store when it starts the ranks anew, and what the last attempt wrote is still there.
    let shared = store.prefixed(&format!("neva/attempt_{}", rank.restart_count))?;
    if rank.rank == 0 {
        shared.set("from_first", from_first)?;
        shared.set("greeting", greeting)?;
        hear_all(&shared, rank.world_size, &left)?;
    } else {
        match difference(&shared.get("greeting", left())?, greeting, rank.rank) {
            Some(differs) => shared.set("outcome", differs.as_bytes())?,
            None => shared.set(&format!("same/{}", rank.rank), b"1")?,
        }
        let outcome = shared.get("outcome", left())?;
        if !outcome.is_empty() {
            shared.set(&format!("heard/{}", rank.rank), b"1")?;
            return Err(Met::Differs(String::from_utf8_lossy(&outcome).into_owned()));
        }
    }
    let from_first = shared.get("from_first", left())?;
    Ok((store, shared, from_first))
}

/// Rank 0 hears from every rank that it does the same, and tells all; or from the first that does not, who has told them.
fn hear_all(shared: &Store, world: u32, left: &dyn Fn() -> Duration) -> Result<(), Met> {
    for rank in 1..world {
        let same = format!("same/{rank}");
        while let Err(error) = shared.wait(&[&same], left().min(LOOK)) {
            if shared.check(&["outcome"])? {
                return Err(Met::Differs(tell(shared, world, left)?));
            }
            if left() <= AN_INSTANT {
                return Err(Met::Store(format!("rank {rank} did not come: {error}")));
            }
        }
    }
    Ok(shared.set("outcome", b"")?)
}

/// What differs. Rank 0 stays until all know it, or nearly: whoever does not come misses it, and ends too.
fn tell(shared: &Store, world: u32, left: &dyn Fn() -> Duration) -> Result<String, Met> {
    let outcome = shared.get("outcome", LOOK)?;
    let heard: Vec<_> = (1..world).map(|rank| format!("heard/{rank}")).collect();
    let heard: Vec<_> = heard.iter().map(String::as_str).collect();
    let _ = shared.wait(&heard, HEARD.min(left() + SLACK / 2));
    Ok(String::from_utf8_lossy(&outcome).into_owned())
}

impl Meeting {
    /// This attempt's part of the store, for keys below `prefix`.
    ///
    /// # Errors
    /// The store failed.
    pub fn store(&self, prefix: &str) -> Result<Store, CommError> {
        self.own.prefixed(prefix).map_err(|error| CommError::Rendezvous {
            address: self.address.clone(),
            reason: error.to_string(),
        })
    }

    /// Leaves: rank 0, which may serve the store, waits a little for the others to be done with it.
    pub fn leave(self, deadline: Duration) {
        let Ok(store) = self.own.prefixed("leave") else { return };
        let key = |rank: u32| format!("rank{rank}");
        if store.set(&key(self.rank), b"1").is_ok() && self.rank == 0 {
            let keys: Vec<_> = (0..self.fabric.world() as u32).map(key).collect();
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            // Whoever does not come has failed and said so itself.
            let _ = store.wait(&keys, deadline);
        }
    }
}

enum Met {
    Store(String),
    Differs(String),
}

impl From<neva_torch_ffi::Error> for Met {
    fn from(error: neva_torch_ffi::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// The address of this machine that faces the master: the one that the other ranks can reach.
fn own_address(master: &str) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Connecting a datagram socket sends nothing; it only chooses the route.
    socket.connect((master, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
