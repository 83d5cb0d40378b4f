//! Process groups over Gloo. Ranks are threads of one process.

mod rendezvous;

use crate::comm::check_collectives;
use crate::setting::within_limit;
use neva_engine::comm::{Axis, CommError, Handshake, Mesh, ProcessGroupFactory, Reduce, Rendezvous, rendezvous};
use neva_schemas::{ParallelSizes, RankEnv};
use neva_torch_ffi::TcpStore;
use std::time::{Duration, Instant};
use tch::Tensor;

const HOST: &str = "127.0.0.1";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);

fn handshake(plan: &str) -> Handshake {
    Handshake {
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

/// Runs `body` on ranks that rendezvous at the store of an agent, as with torchrun.
pub(crate) fn on_gloo<T: Send>(
    world: u32,
    timeout: Duration,
    plan: impl Fn(u32) -> &'static str + Sync,
    body: impl Fn(Result<Rendezvous, CommError>) -> T + Sync,
) -> Vec<T> {
    let store = TcpStore::server(HOST, 0, world as usize, TIMEOUT).unwrap();
    let port = store.port();
    each_rank(world, |rank| {
        body(rendezvous(
            &rank_env(rank, world, port, true),
            &handshake(plan(rank)),
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
fn gloo_reduces_every_kind() {
    within_limit(|| {
        let from_first = on_gloo(
            2,
            TIMEOUT,
            |_| "plan",
            |met| {
                let met = met.unwrap();
                check_collectives(&*met.factory.group("pair", &[0, 1]).unwrap());
                let from_first = met.from_first.clone();
                met.leave(TIMEOUT);
                from_first
            },
        );
        assert_eq!(from_first, [b"from 0", b"from 0"]);
    });
}

#[test]
fn a_mesh_over_gloo_reduces_along_its_axes() {
    within_limit(|| {
        let sizes = ParallelSizes {
            tp: 2,
            dp: 2,
            ..ParallelSizes::ONE
        };
        let sums = on_gloo(
            4,
            TIMEOUT,
            |_| "plan",
            |met| {
                let met = met.unwrap();
                let mesh = Mesh::new(sizes, &met.factory).unwrap();
                let sums = [Axis::Tensor, Axis::Data].map(|axis| {
                    let sum = Tensor::from(10i64.pow(met.factory.rank() as u32));
                    mesh.axis(axis).all_reduce(&sum, Reduce::Sum).unwrap();
                    sum.int64_value(&[])
                });
                met.leave(TIMEOUT);
                sums
            },
        );
        assert_eq!(sums, [[11, 101], [11, 1010], [1100, 101], [1100, 1010]]);
    });
}

#[test]
fn the_end_of_a_peer_ends_the_wait() {
    within_limit(|| {
        let outcomes = on_gloo(
            2,
            TIMEOUT,
            |_| "plan",
            |met| {
                let met = met.unwrap();
                let group = met.factory.group("pair", &[0, 1]).unwrap();
                let formed = met.store("formed").unwrap();
                if met.factory.rank() == 1 {
                    // Wait until rank 0 is connected: an earlier end would fail its connect.
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

/// The error lists the ranks that arrived, unlike c10d's own.
#[test]
fn a_deadline_error_names_absent_ranks() {
    within_limit(|| {
        // Long enough for both to arrive before the first gives up.
        const LIMIT: Duration = Duration::from_secs(8);
        for absent in [0, 1, 2] {
            let outcomes = on_gloo(
                3,
                LIMIT,
                |_| "plan",
                |met| {
                    let met = met.unwrap();
                    let group = met.factory.group("three", &[0, 1, 2]).unwrap();
                    let sum = Tensor::from(1f32);
                    group.all_reduce(&sum, Reduce::Sum).unwrap();
                    let formed = met.store("over").unwrap();
                    if met.factory.rank() == absent {
                        // Alive, but not in the call.
                        formed.wait(&["1", "2"], TIMEOUT).unwrap();
                        return String::new();
                    }
                    let error = group.all_reduce(&sum, Reduce::Sum).unwrap_err();
                    formed
                        .add("count", 1)
                        .and_then(|count| formed.set(&count.to_string(), b"1"))
                        .unwrap();
                    // As in a run, a rank that fails ends and closes its connections.
                    drop(group);
                    match error {
                        CommError::Deadline { .. } => error.to_string(),
                        // The other rank had timed out before.
                        other => {
                            assert!(matches!(other, CommError::Transport { .. }), "{other}");
                            String::new()
                        }
                    }
                },
            );
            let there: Vec<_> = (0..3).filter(|rank| *rank != absent).collect();
            let expected = format!("of 3 ranks only {there:?} arrived, [{absent}] did not answer");
            let deadlines: Vec<_> = outcomes.iter().filter(|text| !text.is_empty()).collect();
            assert!(!deadlines.is_empty(), "rank {absent} is absent: {outcomes:?}");
            for text in deadlines {
                assert!(text.ends_with(&expected), "rank {absent} is absent: {text}");
                assert!(text.contains("all_reduce(sum) of Float [] in group `three`"), "{text}");
            }
        }
    });
}

#[test]
fn a_deadline_error_names_a_missing_sender() {
    within_limit(|| {
        let outcomes = on_gloo(
            2,
            Duration::from_secs(2),
            |_| "plan",
            |met| {
                let met = met.unwrap();
                let group = met.factory.group("pair", &[0, 1]).unwrap();
                let over = met.store("over").unwrap();
                if met.factory.rank() == 1 {
                    over.get("0", TIMEOUT).unwrap();
                    return String::new();
                }
                let error = group.recv(&Tensor::from(1f32), 1, 3).unwrap().wait().unwrap_err();
                over.set("0", b"1").unwrap();
                error.to_string()
            },
        );
        assert!(
            outcomes[0].starts_with("recv of Float []") && outcomes[0].ends_with("rank 1 did not send"),
            "{outcomes:?}"
        );
    });
}
