//! Ranks that meet at a TCP store and talk through Gloo. Here they are threads of one process.

use crate::comm::check_collectives;
use crate::setting::within_limit;
use neva_engine::comm::{Axis, CommError, Greeting, Meeting, Mesh, Reduce, rendezvous};
use neva_engine::{EngineError, comm::Fabric};
use neva_schemas::{ParallelSizes, RankEnv, RankFailure, exit_class};
use neva_torch_ffi::TcpStore;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tch::Tensor;

const HOST: &str = "127.0.0.1";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

fn greeting(plan: &str) -> Greeting {
    Greeting {
        plan: plan.into(),
        version: "0.1.0".into(),
        libtorch: "2.11.0".into(),
        transport: "gloo".into(),
    }
}

fn rank_env(rank: u32, world_size: u32, master_port: u16, agent_store: bool) -> RankEnv {
    RankEnv {
        rank,
        world_size,
        local_rank: rank,
        local_world_size: world_size,
        master_addr: HOST.into(),
        master_port,
        agent_store,
        ..RankEnv::single()
    }
}

/// Runs `body` on the ranks of a world that an agent's store serves, as torchrun's does.
pub(crate) fn meet<T: Send>(
    world: u32,
    timeout: Duration,
    plan: impl Fn(u32) -> &'static str + Sync,
    body: impl Fn(Result<Meeting, CommError>) -> T + Sync,
) -> Vec<T> {
    let store = TcpStore::server(HOST, 0, world as usize, TIMEOUT).unwrap();
    let port = store.port();
    each_rank(world, |rank| {
        body(rendezvous(
            &rank_env(rank, world, port, true),
            &greeting(plan(rank)),
            format!("from {rank}").as_bytes(),
            timeout,
            &|| false,
        ))
    })
}

/// Runs `body` on a thread for each rank.
fn each_rank<T: Send>(world: u32, body: impl Fn(u32) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = (0..world).map(|rank| scope.spawn(move || body(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn processes_combine_every_kind() {
    within_limit(|| {
        let told = meet(
            2,
            TIMEOUT,
            |_| "plan",
            |meeting| {
                let meeting = meeting.unwrap();
                check_collectives(&*meeting.fabric.group("pair", &[0, 1]).unwrap());
                let told = meeting.from_first.clone();
                meeting.leave(TIMEOUT);
                told
            },
        );
        assert_eq!(told, [b"from 0", b"from 0"]);
    });
}

#[test]
fn a_mesh_of_processes_is_that_of_threads() {
    within_limit(|| {
        let sizes = ParallelSizes {
            tp: 2,
            dp: 2,
            ..ParallelSizes::ONE
        };
        let sums = meet(
            4,
            TIMEOUT,
            |_| "plan",
            |meeting| {
                let meeting = meeting.unwrap();
                let mesh = Mesh::new(sizes, &meeting.fabric).unwrap();
                let sums = [Axis::Tensor, Axis::Data].map(|axis| {
                    let sum = Tensor::from(10i64.pow(meeting.fabric.rank() as u32));
                    mesh.axis(axis).all_reduce(&sum, Reduce::Sum).unwrap();
                    sum.int64_value(&[])
                });
                meeting.leave(TIMEOUT);
                sums
            },
        );
        assert_eq!(sums, [[11, 101], [11, 1010], [1100, 101], [1100, 1010]]);
    });
}

/// A port that was free a moment ago.
/// A port that nobody gets who asks for any: those begin at 32768.
fn free_port() -> u16 {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2000) as u16 * 10;
    let mut ports = std::iter::repeat_with(|| first + ASKED.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| TcpListener::bind((HOST, *port)).is_ok()).unwrap()
}

#[test]
fn rank_0_serves_the_store_where_no_agent_does() {
    within_limit(|| {
        // Another process may take the port in between: then the next one is tried, as a launcher does.
        let met = (0..5).any(|_| {
            let port = free_port();
            let join = |rank| rendezvous(&rank_env(rank, 2, port, false), &greeting("plan"), b"folder", TIMEOUT, &|| false);
            let outcomes = std::thread::scope(|scope| {
                let ranks = [0, 1].map(|rank| {
                    scope.spawn(move || {
                        join(rank).map(|meeting| {
                            let told = meeting.from_first.clone();
                            meeting.leave(TIMEOUT);
                            told
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
fn ranks_of_different_runs_do_not_mix() {
    within_limit(|| {
        // Of three the last one differs: all are told at once, and what.
        let started = Instant::now();
        let outcomes = meet(
            3,
            TIMEOUT,
            |rank| ["plan a", "plan a", "plan b"][rank as usize],
            |meeting| meeting.map(drop),
        );
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(matches!(error, CommError::Strangers(_)), "{error}");
            let text = error.to_string();
            let expected = r#"`plan` is "plan a" on rank 0 and "plan b" on rank 2"#;
            assert!(text.ends_with(expected), "{text}");
            assert_eq!(EngineError::from(error).class(), exit_class::INPUT);
        }
    });
}

#[test]
fn what_answers_without_being_a_store_is_given_up_in_time() {
    within_limit(|| {
        // Takes connections, and never says a word.
        let silent = TcpListener::bind((HOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let started = Instant::now();
        let error = rendezvous(&rank_env(1, 2, port, false), &greeting("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        assert!(error.to_string().contains("no store of a run answered"), "{error}");
        assert_eq!(EngineError::from(error).class(), exit_class::CLUSTER);
    });
}

#[test]
fn a_rank_that_is_asked_to_stop_waits_for_nobody() {
    within_limit(|| {
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let started = Instant::now();
        let asked = || started.elapsed() > SHORT;
        let error = rendezvous(&rank_env(1, 2, store.port(), true), &greeting("plan"), b"", TIMEOUT, &asked).unwrap_err();
        assert!(matches!(error, CommError::Stopped), "{error}");
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
    });
}

/// Nor does its store: who runs the next one in the same process may have the port.
#[test]
fn a_first_rank_that_is_asked_to_stop_frees_its_port() {
    within_limit(|| {
        let (port, started) = (free_port(), Instant::now());
        let asked = || started.elapsed() > SHORT;
        let error = rendezvous(&rank_env(0, 2, port, false), &greeting("plan"), b"", TIMEOUT, &asked).unwrap_err();
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
        by_peer: false,
    }
}

#[test]
fn an_absent_master_is_given_up_in_time() {
    within_limit(|| {
        let port = free_port();
        let started = Instant::now();
        let error = rendezvous(&rank_env(1, 2, port, false), &greeting("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{HOST}:{port}")), "{error}");
        assert!(started.elapsed() < TIMEOUT / 2, "it took {:?}", started.elapsed());
        assert_eq!(EngineError::from(error).class(), exit_class::CLUSTER);
    });
}

#[test]
fn an_absent_rank_0_is_given_up_in_time() {
    within_limit(|| {
        // The store is there, but rank 0 never says what it is about to do.
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let error = rendezvous(&rank_env(1, 2, store.port(), true), &greeting("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
    });
}

#[test]
fn a_taken_port_is_recognised() {
    within_limit(|| {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = rendezvous(&rank_env(0, 2, port, false), &greeting("plan"), b"", SHORT, &|| false).unwrap_err();
        assert!(matches!(error, CommError::Rendezvous { .. }), "{error}");
        assert!(failure(&error).port_was_taken(), "{error}");
    });
}

/// A rank as torchrun's variables name it, whose agent serves the store and has started the ranks anew `restarts` times.
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
fn ranks_that_are_started_anew_do_not_meet_those_before_them() {
    within_limit(|| {
        let store = TcpStore::server(HOST, 0, 2, TIMEOUT).unwrap();
        let port = store.port();
        let meet = |rank, restarts, timeout| {
            let words = format!("attempt {restarts}");
            rendezvous(
                &under_torchrun(rank, 2, port, restarts),
                &greeting(&words),
                words.as_bytes(),
                timeout,
                &|| false,
            )
        };
        for restarts in [0, 1] {
            // Nobody of this attempt is there: whatever the last one left is no answer.
            let error = meet(1, restarts, SHORT).unwrap_err();
            assert!(matches!(error, CommError::Rendezvous { .. }), "attempt {restarts}: {error}");
            let sums = each_rank(2, |rank| {
                let meeting = meet(rank, restarts, TIMEOUT).unwrap();
                assert_eq!(meeting.from_first, format!("attempt {restarts}").as_bytes());
                assert!(!meeting.store("mine").unwrap().check(&["left"]).unwrap(), "attempt {restarts}");
                let group = meeting.fabric.group("pair", &[0, 1]).unwrap();
                let sum = Tensor::from(i64::from(rank + restarts));
                group.all_reduce(&sum, Reduce::Sum).unwrap();
                meeting.store("mine").unwrap().set("left", b"1").unwrap();
                // As an attempt that failed: nobody takes leave.
                sum.int64_value(&[])
            });
            assert_eq!(sums, [1 + 2 * i64::from(restarts); 2]);
        }
    });
}

#[test]
fn a_peer_that_leaves_ends_the_wait() {
    within_limit(|| {
        let outcomes = meet(
            2,
            TIMEOUT,
            |_| "plan",
            |meeting| {
                let meeting = meeting.unwrap();
                let group = meeting.fabric.group("pair", &[0, 1]).unwrap();
                let formed = meeting.store("formed").unwrap();
                if meeting.fabric.rank() == 1 {
                    // Each rank forms a group by itself: one that leaves earlier ends the other's attempt to connect.
                    formed.get("0", TIMEOUT).unwrap();
                    return Ok(());
                }
                formed.set("0", b"1").unwrap();
                let started = Instant::now();
                let outcome = group.all_reduce(&Tensor::from(1f32), Reduce::Sum);
                assert!(started.elapsed() < TIMEOUT, "the deadline ended it, not the peer: {outcome:?}");
                outcome
            },
        );
        let error = outcomes[0].as_ref().unwrap_err();
        assert!(matches!(error, CommError::Transport { .. }), "{error}");
        assert!(
            error.to_string().contains("`pair`") && error.to_string().contains("all_reduce(sum)"),
            "{error}"
        );
    });
}
