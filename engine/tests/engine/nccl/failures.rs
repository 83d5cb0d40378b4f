//! Failures over NCCL: errors name absent ranks, and no rank waits forever.

use super::gpu::{Gpu, Simulation};
use super::{LONG, all, on_gpus};
use crate::setting::within_limit;
use neva_engine::comm::{CommError, NcclWorld, ProcessGroup, ProcessGroupFactory, Reduce, ThreadFactory};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tch::Tensor;

const SHORT: Duration = Duration::from_secs(3);

/// Calls collectives until one fails because of an alarm.
fn until_it_fails(group: &dyn ProcessGroup) -> CommError {
    let asked = Instant::now();
    loop {
        let tensor = Tensor::from(1f32);
        // No other rank joins, so no call completes.
        match group.start_all_reduce(&tensor, Reduce::Max) {
            Err(error) => return error,
            Ok(pending) => {
                if let Err(error) = pending.wait() {
                    return error;
                }
            }
        }
        assert!(asked.elapsed() < LONG, "no call failed");
    }
}

#[test]
fn a_deadline_error_names_absent_ranks() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let late = Barrier::new(3);
        let outcomes = on_gpus(
            3,
            SHORT,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("tensor.0", &all(3)).unwrap();
                group.all_reduce(&Tensor::from(1f32), Reduce::Sum).unwrap();
                let error = match group.rank() {
                    2 => None,
                    _ => Some(until_it_fails(&*group)),
                };
                late.wait();
                // The absent rank is notified, too.
                error.unwrap_or_else(|| until_it_fails(&*group)).to_string()
            },
        );
        let named: Vec<_> = outcomes
            .iter()
            .filter(|text| text.ends_with("of 3 ranks only [0, 1] arrived"))
            .collect();
        assert!(!named.is_empty(), "{outcomes:?}");
        for text in &outcomes {
            assert!(text.contains("all_reduce(max) of Float [] in group `tensor.0`: rank "), "{text}");
            // Measured, so a little more on a busy machine.
            let waited = text
                .split_once("waited ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            assert!(waited.is_some_and(|seconds: u64| seconds >= SHORT.as_secs()), "{text}");
        }
        assert!(outcomes[2].contains("gave up"), "{}", outcomes[2]);
        // All communicators are aborted.
        assert_eq!(
            (
                simulation.aborted.load(Ordering::Relaxed),
                simulation.destroyed.load(Ordering::Relaxed)
            ),
            (3, 0)
        );
    });
}

#[test]
fn a_deadline_error_names_silent_ranks() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let gone = Barrier::new(2);
        let outcomes = on_gpus(
            2,
            SHORT,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("data.0", &all(2)).unwrap();
                if group.rank() == 1 {
                    nccl.leave();
                    gone.wait();
                    return String::new();
                }
                let text = until_it_fails(&*group).to_string();
                gone.wait();
                text
            },
        );
        assert!(
            outcomes[0].ends_with("of 2 ranks only [0] arrived, [1] did not answer"),
            "{}",
            outcomes[0]
        );
    });
}

#[test]
fn the_end_of_a_rank_ends_the_waits_of_its_peers() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let begun = Instant::now();
        let outcomes = on_gpus(
            3,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("world.0", &all(3)).unwrap();
                // Rank 1 fails by itself.
                (group.rank() != 1).then(|| until_it_fails(&*group))
            },
        );
        for rank in [0, 2] {
            let error = outcomes[rank].as_ref().unwrap();
            assert!(matches!(error, CommError::Peer { .. }), "rank {rank}: {error}");
            assert!(
                error.to_string().contains("all_reduce(max) in group `world.0`: rank "),
                "rank {rank}: {error}"
            );
        }
        assert!(begun.elapsed() < LONG / 4, "the peers waited {:?}", begun.elapsed());
    });
}

#[test]
fn a_broken_communicator_fails_on_every_rank() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let formed = Barrier::new(2);
        let outcomes = on_gpus(
            2,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("tensor.0", &all(2)).unwrap();
                if formed.wait().is_leader() {
                    simulation.fail("NCCL: remote process exited");
                }
                formed.wait();
                until_it_fails(&*group).to_string()
            },
        );
        for text in outcomes {
            assert!(text.contains("NCCL: remote process exited"), "{text}");
        }
    });
}

fn form(host: &ThreadFactory, nccl: &NcclWorld<Gpu>) -> CommError {
    nccl.over(host).group("tensor.0", &all(2)).unwrap_err()
}

#[test]
fn an_incomplete_group_names_the_ranks_that_arrived() {
    within_limit(|| {
        for absent in 0..2 {
            let simulation = Arc::<Simulation>::default();
            let outcomes = on_gpus(
                2,
                SHORT,
                || Gpu::new(&simulation),
                |host, nccl| {
                    let outcome = (host.rank() != absent).then(|| form(host, &nccl));
                    nccl.leave();
                    outcome
                },
            );
            let error = outcomes[1 - absent].as_ref().unwrap();
            let text = error.to_string();
            assert!(matches!(error, CommError::Deadline { .. }), "{text}");
            assert!(text.starts_with("connect of 2 ranks in group `tensor.0`: rank "), "{text}");
            assert!(text.ends_with(&format!("of 2 ranks only [{}] arrived", 1 - absent)), "{text}");
        }
    });
}

#[test]
fn a_transfer_of_another_shape_is_refused() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        let outcomes = on_gpus(
            2,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).ring("pipeline.0", &all(2)).unwrap();
                let sizes = [2i64, 3];
                let tensor = Tensor::zeros([sizes[group.rank()]], tch::kind::FLOAT_CPU);
                let outcome = match group.rank() {
                    0 => group.send(&tensor, 1, 4).map(drop),
                    _ => group.recv(&tensor, 0, 4).unwrap().wait(),
                };
                nccl.leave();
                outcome
            },
        );
        assert!(outcomes[0].is_ok());
        let error = outcomes[1].as_ref().unwrap_err().to_string();
        assert_eq!(
            error,
            "ranks of group `pipeline.0.0>1` disagree: rank 0 sends Float of 2 elements, its receiver expects Float [3]"
        );
    });
}

#[test]
fn tensors_of_wrong_layout_or_size_are_refused() {
    within_limit(|| {
        let simulation = Arc::<Simulation>::default();
        on_gpus(
            2,
            LONG,
            || Gpu::new(&simulation),
            |host, nccl| {
                let group = nccl.over(host).group("data.0", &all(2)).unwrap();
                let square = Tensor::zeros([3, 3], tch::kind::FLOAT_CPU);
                let refused = |pending: Result<_, CommError>| pending.map(drop).unwrap_err().to_string();
                let text = refused(group.start_all_reduce(&square.transpose(0, 1), Reduce::Sum));
                assert!(text.contains("[3, 3] is not contiguous"), "{text}");
                let text = refused(group.start_all_gather(&square, &square));
                assert!(text.contains("Float [3, 3] is not 2 times Float [3, 3]"), "{text}");
                let text = refused(group.start_reduce_scatter(&square, &square));
                assert!(text.contains("is not 2 times"), "{text}");
                nccl.leave();
            },
        );
        assert_eq!(simulation.begun("all_gather"), 0);
    });
}
