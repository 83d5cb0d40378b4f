//! How the ranks of a run meet: torchrun's variables, c10d's TCP store, and a comparison of what each
//! rank believes it is about to do.

use super::collective::{CommError, Fabric};
use super::gloo::GlooFabric;
use neva_schemas::RankEnv;
use neva_torch_ffi::{Bind, Store, TcpStore};
use serde::{Deserialize, Serialize};
use std::net::UdpSocket;
use std::time::Duration;

/// What every rank must agree on before the first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Hash of the launch plan.
    pub plan: String,
    /// Version of this program.
    pub version: String,
    /// Version of libtorch.
    pub libtorch: String,
    /// What ranks talk through.
    pub transport: String,
}

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

/// Meets the other ranks, hands `from_first` of rank 0 to all, and compares greetings.
///
/// # Errors
/// The store cannot be reached in time, or ranks differ: the difference and the rank are named.
pub fn rendezvous(rank: &RankEnv, greeting: &Greeting, from_first: &[u8], timeout: Duration) -> Result<Meeting, CommError> {
    let address = format!("{}:{}", rank.master_addr, rank.master_port);
    let failed = |error: neva_torch_ffi::Error| CommError::Rendezvous {
        address: address.clone(),
        reason: error.to_string(),
    };
    let world = rank.world_size as usize;
    let serve = rank.rank == 0 && !rank.agent_store;
    let open = if serve { TcpStore::server } else { TcpStore::client };
    let store = open(&rank.master_addr, rank.master_port, world, timeout).map_err(failed)?;
    // torchrun's agent keeps its store when it starts the ranks anew, and what the last attempt wrote is still there.
    let shared = store.prefixed(&format!("neva/attempt_{}", rank.restart_count)).map_err(failed)?;
    compare(&shared, rank, greeting, timeout).map_err(|error| match error {
        Met::Store(error) => failed(error),
        Met::Differs(text) => CommError::Strangers(text),
    })?;
    if rank.rank == 0 {
        shared.set("from_first", from_first).map_err(failed)?;
    }
    let from_first = shared.get("from_first", timeout).map_err(failed)?;
    let bind = own_address(&rank.master_addr).map_or(Bind::Default, Bind::Hostname);
    let fabric = GlooFabric::new(shared.try_clone().map_err(failed)?, rank.rank as usize, world, timeout, bind);
    Ok(Meeting {
        fabric,
        from_first,
        own: shared,
        _store: store,
        address,
        rank: rank.rank,
    })
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
    Store(neva_torch_ffi::Error),
    Differs(String),
}

impl From<neva_torch_ffi::Error> for Met {
    fn from(error: neva_torch_ffi::Error) -> Self {
        Self::Store(error)
    }
}

/// Every rank compares itself with rank 0.
fn compare(store: &Store, rank: &RankEnv, greeting: &Greeting, timeout: Duration) -> Result<(), Met> {
    let own = serde_json::to_vec(greeting).map_err(|error| Met::Differs(error.to_string()))?;
    if rank.rank == 0 {
        store.set("greeting", &own)?;
    }
    let first = store.get("greeting", timeout)?;
    if first == own {
        return Ok(());
    }
    Err(Met::Differs(match serde_json::from_slice::<Greeting>(&first) {
        Ok(first) => format!("rank 0 has {first:?}, rank {} has {greeting:?}", rank.rank),
        Err(_) => format!("rank 0 is another version of this program than rank {}", rank.rank),
    }))
}

/// The address of this machine that faces the master: the one that the other ranks can reach.
fn own_address(master: &str) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Connecting a datagram socket sends nothing; it only chooses the route.
    socket.connect((master, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
