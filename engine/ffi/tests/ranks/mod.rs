//! Ranks as threads of the test process. Each rank has its own connection to one store and its own group.

use std::fmt::Debug;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use neva_torch_ffi::{Bind, GlooGroup, GlooOptions, TcpStore};

pub(crate) const HOST: &str = "127.0.0.1";

/// Deadline of all waits. It is much longer than any test, so only a hung test reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

pub(crate) fn options(rank: usize, size: usize) -> GlooOptions {
    GlooOptions {
        name: "test".into(),
        rank,
        size,
        timeout: DEADLINE,
        bind: Bind::Hostname(HOST.into()),
        check: false,
    }
}

/// Runs `body` on `size` ranks and returns their results in the order of ranks. A panic of a rank fails the test.
pub(crate) fn run<T: Send + Debug + 'static>(
    size: usize,
    adjust: fn(&mut GlooOptions),
    body: impl Fn(&Arc<GlooGroup>) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let server = TcpStore::server(HOST, 0, size, DEADLINE).unwrap();
    let port = server.port();
    let (body, formed) = (Arc::new(body), Arc::new(Barrier::new(size)));
    let (sender, receiver) = channel();
    let threads: Vec<_> = (0..size)
        .map(|rank| {
            let (body, formed, sender) = (Arc::clone(&body), Arc::clone(&formed), sender.clone());
            let work = move || {
                let store = TcpStore::client(HOST, port, size, DEADLINE).unwrap();
                let mut options = options(rank, size);
                adjust(&mut options);
                let group = Arc::new(GlooGroup::new(&store, &options).unwrap());
                // `new` returns when the connections of this rank are complete. If it left now, the connections of other
                // ranks could fail.
                formed.wait();
                let result = body(&group);
                // The group is sent along, so that no rank closes its connections while another one still needs them.
                sender.send((rank, result, group, store)).unwrap();
            };
            thread::Builder::new().name(format!("rank {rank}")).spawn(work).unwrap()
        })
        .collect();
    drop(sender);
    let end = Instant::now() + DEADLINE;
    let mut done = Vec::new();
    while done.len() < size {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(result) => done.push(result),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let ranks: Vec<usize> = done.iter().map(|(rank, ..)| *rank).collect();
                panic!("only ranks {ranks:?} of {size} were done after {DEADLINE:?}");
            }
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    done.sort_by_key(|(rank, ..)| *rank);
    done.into_iter().map(|(_, result, ..)| result).collect()
}
