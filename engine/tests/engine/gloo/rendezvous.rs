//! Rendezvous of ranks at a TCP store, with and without torchrun's agent.

use super::{HOST, SHORT, TIMEOUT, each_rank, handshake, on_gloo, rank_env};
use crate::setting::within_limit;
use neva_engine::EngineError;
use neva_engine::comm::{CommError, ProcessGroupFactory, Reduce, rendezvous};
use neva_schemas::{RankEnv, RankFailure, exit_class};
use neva_torch_ffi::TcpStore;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tch::Tensor;

/// Returns a port that was free a moment ago, below 32768 where ephemeral ports start.
fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2000) as u16 * 10;
    let mut ports = std::iter::repeat_with(|| first + ASKED.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| TcpListener::bind((HOST, *port)).is_ok()).unwrap()
}

#[test]
fn rank_0_serves_the_store_without_an_agent() {
    within_limit(|| {
        // Another process may take the port in between: then try the next one, as a launcher does.
        let met = (0..5).any(|_| {
            let port = free_port();
            let join = |rank| rendezvous(&rank_env(rank, 2, port, false), &handshake("plan"), b"folder", TIMEOUT, &|| false);
            let outcomes = std::thread::scope(|scope| {
                let ranks = [0, 1].map(|rank| {
                    scope.spawn(move || {
                        join(rank).map(|met| {
                            let from_first = met.from_first.clone();
                            met.leave(TIMEOUT);
                            from_first
                        })
                    })
                });
                ranks.map(|rank| rank.join().unwrap())
            });
            match outcomes {
                [Err(error), _] if failure(&error).port_was_taken() => false,
                [first, second] => {
                    assert_eq!((first.unwrap(), second.unwrap()), (b"folder".to_vec(), b"folder".to_vec()));
                    true
                }
            }
        });
        assert!(met, "five ports were taken");
    });
}

#[test]
fn a_handshake_mismatch_is_reported_on_every_rank() {
    within_limit(|| {
        // The last of three ranks differs: all report the difference at once.
        let started = Instant::now();
        let outcomes = on_gloo(
            3,
            TIMEOUT,
            |rank| ["plan a", "plan a", "plan b"][rank as usize],
            |met| met.map(drop),
        );
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(matches!(error, CommError::HandshakeMismatch(_)), "{error}");
            let text = error.to_string();
            let expected = r#"`plan` is "plan a" on rank 0 and "plan b" on rank 2"#;
            assert!(text.ends_with(expected), "{text}");
            assert_eq!(EngineError::from(error).exit_code(), exit_class::INPUT);
        }
    });
}

#[test]
fn a_port_of_another_program_times_out() {
    within_limit(|| {
        // Accepts connections and sends nothing.
        let silent = TcpListener::bind((HOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let started = Instant::now();
        let error = rendezvous(&rank_env(1, 2, port, false), &handshake("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        assert!(error.to_string().contains("no store of a run answered"), "{error}");
        assert_eq!(EngineError::from(error).exit_code(), exit_class::CLUSTER);
    });
}

#[test]
fn a_stop_request_ends_the_rendezvous() {
    within_limit(|| {
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let started = Instant::now();
        let asked = || started.elapsed() > SHORT;
        let error = rendezvous(&rank_env(1, 2, store.port(), true), &handshake("plan"), b"", TIMEOUT, &asked).unwrap_err();
        assert!(matches!(error, CommError::Stopped), "{error}");
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
    });
}

/// Another rendezvous in the same process can then use the port.
#[test]
fn a_stop_request_frees_the_port_of_rank_0() {
    within_limit(|| {
        let (port, started) = (free_port(), Instant::now());
        let asked = || started.elapsed() > SHORT;
        let error = rendezvous(&rank_env(0, 2, port, false), &handshake("plan"), b"", TIMEOUT, &asked).unwrap_err();
        assert!(matches!(error, CommError::Stopped), "{error}");
        while let Err(error) = TcpListener::bind((HOST, port)) {
            assert!(started.elapsed() < TIMEOUT / 2, "the port is still taken: {error}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    });
}

fn failure(error: &CommError) -> RankFailure {
    RankFailure {
        class: exit_class::CLUSTER,
        rank: 0,
        step: None,
        unix_ms: 0,
        chain: vec![error.to_string()],
        peer_failure: false,
        help: None,
    }
}

#[test]
fn an_absent_master_times_out() {
    within_limit(|| {
        let port = free_port();
        let started = Instant::now();
        let error = rendezvous(&rank_env(1, 2, port, false), &handshake("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{HOST}:{port}")), "{error}");
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        assert_eq!(EngineError::from(error).exit_code(), exit_class::CLUSTER);
    });
}

#[test]
fn an_absent_rank_0_times_out() {
    within_limit(|| {
        // The store exists, but rank 0 never publishes its handshake.
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let error = rendezvous(&rank_env(1, 2, store.port(), true), &handshake("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
    });
}

#[test]
fn a_taken_port_is_recognised() {
    within_limit(|| {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = rendezvous(&rank_env(0, 2, port, false), &handshake("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
        assert!(failure(&error).port_was_taken(), "{error}");
    });
}

/// Returns the environment of a rank under torchrun, whose agent serves the store and has restarted it `restarts` times.
fn under_torchrun(rank: u32, world_size: u32, port: u16, restarts: u32) -> RankEnv {
    let lookup = |name: &str| {
        Some(match name {
            "RANK" | "LOCAL_RANK" => rank.to_string(),
            "WORLD_SIZE" | "LOCAL_WORLD_SIZE" => world_size.to_string(),
            "MASTER_ADDR" => HOST.into(),
            "MASTER_PORT" => port.to_string(),
            "TORCHELASTIC_USE_AGENT_STORE" => "True".into(),
            "TORCHELASTIC_RESTART_COUNT" => restarts.to_string(),
            _ => return None,
        })
    };
    RankEnv::read(lookup).unwrap().unwrap()
}

#[test]
fn restarted_ranks_ignore_keys_of_previous_attempts() {
    within_limit(|| {
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let port = store.port();
        let meet = |rank, restarts, timeout| {
            let text = format!("attempt {restarts}");
            rendezvous(
                &under_torchrun(rank, 2, port, restarts),
                &handshake(&text),
                text.as_bytes(),
                timeout,
                &|| false,
            )
        };
        for restarts in [0, 1] {
            // No other rank of this attempt exists: keys of the last attempt do not count.
            let error = meet(1, restarts, SHORT).unwrap_err();
            assert!(matches!(error, CommError::Rendezvous { .. }), "attempt {restarts}: {error}");
            let sums = each_rank(2, |rank| {
                let met = meet(rank, restarts, TIMEOUT).unwrap();
                assert_eq!(met.from_first, format!("attempt {restarts}").as_bytes());
                assert!(!met.store("mine").unwrap().check(&["left"]).unwrap(), "attempt {restarts}");
                let group = met.factory.group("pair", &[0, 1]).unwrap();
                let sum = Tensor::from(i64::from(rank + restarts));
                group.all_reduce(&sum, Reduce::Sum).unwrap();
                met.store("mine").unwrap().set("left", b"1").unwrap();
                // As in a failed attempt, no rank disconnects.
                sum.int64_value(&[])
            });
            assert_eq!(sums, [1 + 2 * i64::from(restarts); 2]);
        }
    });
}
