//! Failures of collectives over threads: ranks that end, panic, mismatch or never arrive.

use super::LONG;
use crate::setting::{ONE, within_limit};
use neva_engine::EngineError;
use neva_engine::comm::{
    CommError, Mesh, ProcessGroup, ProcessGroupFactory, Reduce, all_succeed, decide_on_first_rank, run_ranks, stages_succeed,
};
use neva_schemas::ParallelSizes;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

#[test]
fn the_end_of_a_rank_ends_the_waits_of_its_peers() {
    within_limit(|| {
        let started = Instant::now();
        let outcomes = run_ranks(3, LONG, |factory| {
            let group = factory.group("all", &[0, 1, 2])?;
            if factory.rank() == 1 {
                return Err(CommError::HandshakeMismatch("rank 1 fails by itself".into()));
            }
            group.all_reduce(&Tensor::from(1f32), Reduce::Sum)
        });
        for rank in [0, 2] {
            let error = outcomes[rank].as_ref().unwrap_err();
            assert!(matches!(error, CommError::Peer { .. }), "rank {rank}: {error}");
            assert_eq!(error.to_string(), "all_reduce(sum) in group `all`: rank 1 has ended");
        }
        assert!(matches!(outcomes[1], Err(CommError::HandshakeMismatch(_))));
        assert!(started.elapsed() < LONG / 4, "the peers waited {:?}", started.elapsed());
    });
}

/// A rank returns its own error even if it cannot send it because another rank has ended.
#[test]
fn a_rank_that_cannot_send_its_error_returns_it() {
    type Agree = fn(&Mesh) -> EngineError;
    fn own() -> EngineError {
        EngineError::Machine("this rank fails by itself".into())
    }
    let calls: [Agree; 3] = [
        |mesh| all_succeed(mesh, Err(own())).unwrap_err(),
        |mesh| stages_succeed::<()>(mesh, Err(own())).unwrap_err(),
        |mesh| decide_on_first_rank::<()>(mesh, || Err(own())).unwrap_err(),
    ];
    within_limit(move || {
        for call in calls {
            let outcomes = run_ranks(2, LONG, |factory| {
                let mesh = Mesh::new(ParallelSizes { pp: 2, ..ONE }, &factory).unwrap();
                (mesh.is_first()).then(|| call(&mesh).to_string())
            });
            assert_eq!(outcomes[0].as_deref(), Some("this rank fails by itself"));
        }
    });
}

#[test]
fn the_panic_of_a_rank_ends_the_waits_of_its_peers() {
    within_limit(|| {
        let started = Instant::now();
        let peers = Mutex::new(Vec::new());
        let panic = catch_unwind(AssertUnwindSafe(|| {
            run_ranks(3, LONG, |factory| {
                let group = factory.group("all", &[0, 1, 2]).unwrap();
                assert_ne!(factory.rank(), 2, "rank 2 breaks");
                let outcome = group.broadcast(&Tensor::from(1f32), 0);
                peers.lock().unwrap().push(outcome.unwrap_err().to_string());
            })
        }));
        let text = panic.unwrap_err().downcast_ref::<String>().cloned().unwrap();
        assert!(text.contains("rank 2 breaks"), "{text}");
        assert_eq!(*peers.lock().unwrap(), ["broadcast in group `all`: rank 2 has ended"; 2]);
        assert!(started.elapsed() < LONG / 4);
    });
}

#[test]
fn a_group_created_after_a_rank_has_ended_fails_too() {
    within_limit(|| {
        let (gone, wait) = channel::<()>();
        let (gone, wait) = (Mutex::new(Some(gone)), Mutex::new(wait));
        let outcomes = run_ranks(2, LONG, |factory| {
            if factory.rank() == 1 {
                // Dropping the sender notifies rank 0 that this rank ends.
                drop(gone.lock().unwrap().take());
                return Ok(());
            }
            assert!(wait.lock().unwrap().recv_timeout(LONG).is_err());
            factory.group("late", &[0, 1])?.all_reduce(&Tensor::from(1f32), Reduce::Sum)
        });
        assert!(matches!(outcomes[0], Err(CommError::Peer { .. })), "{:?}", outcomes[0]);
    });
}

fn zeros(len: i64, kind: Kind) -> Tensor {
    Tensor::zeros([len], (kind, Device::Cpu))
}

#[test]
fn mismatched_calls_are_reported_on_every_rank() {
    type Call = fn(&dyn ProcessGroup) -> Result<(), CommError>;
    let cases: [(Call, Call, &str, &str); 4] = [
        (
            |group| group.all_reduce(&zeros(2, Kind::Float), Reduce::Sum),
            |group| group.all_reduce(&zeros(3, Kind::Float), Reduce::Sum),
            "Float [2]",
            "Float [3]",
        ),
        (
            |group| group.all_reduce(&zeros(2, Kind::Float), Reduce::Sum),
            |group| group.all_reduce(&zeros(2, Kind::Int64), Reduce::Sum),
            "Float [2]",
            "Int64 [2]",
        ),
        (
            |group| group.all_reduce(&zeros(2, Kind::Float), Reduce::Sum),
            |group| group.all_reduce(&zeros(2, Kind::Float), Reduce::Max),
            "all_reduce(sum)",
            "all_reduce(max)",
        ),
        (
            |group| group.all_gather(&zeros(2, Kind::Float)).map(drop),
            |group| group.broadcast(&zeros(2, Kind::Float), 0),
            "rank 0 calls all_gather",
            "rank 1 calls broadcast",
        ),
    ];
    within_limit(move || {
        for (first, second, a, b) in cases {
            let outcomes = run_ranks(2, LONG, |factory| {
                let group = factory.group("pair", &[0, 1]).unwrap();
                let outcome = if factory.rank() == 0 { first(&*group) } else { second(&*group) };
                // The next collective works again.
                group.all_reduce(&Tensor::from(1f32), Reduce::Sum).unwrap();
                outcome
            });
            for outcome in outcomes {
                let error = outcome.unwrap_err();
                assert!(matches!(error, CommError::Mismatch { .. }), "{error}");
                let text = error.to_string();
                assert!(text.contains("`pair`") && text.contains(a) && text.contains(b), "{text}");
            }
        }
    });
}

#[test]
fn a_deadline_error_describes_the_call() {
    within_limit(|| {
        let (done, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let done = Mutex::new(done);
        // A rank that has ended gives another error: both wait until both have timed out.
        let timed_out = Barrier::new(2);
        let outcomes = run_ranks(3, Duration::from_millis(150), |factory| {
            let group = factory.group("tensor.0", &[0, 1, 2]).unwrap();
            if factory.rank() == 2 {
                // Alive, but not in the call until both peers have timed out.
                (0..2).for_each(|_| wait.lock().unwrap().recv_timeout(LONG).unwrap());
                return None;
            }
            let error = group
                .all_reduce(&Tensor::zeros([4, 5], (Kind::BFloat16, Device::Cpu)), Reduce::Max)
                .unwrap_err();
            done.lock().unwrap().send(()).unwrap();
            timed_out.wait();
            Some(error)
        });
        for rank in [0, 1] {
            let error = outcomes[rank].as_ref().unwrap();
            assert!(matches!(error, CommError::Deadline { .. }), "{error}");
            let text = error.to_string();
            for part in [
                "all_reduce(max)",
                "BFloat16 [4, 5]",
                "`tensor.0`",
                &format!("rank {rank}"),
                "of 3 ranks only",
            ] {
                assert!(text.contains(part), "{text} lacks {part}");
            }
            assert!(text.contains(&rank.to_string()) && !text.contains(", 2]"), "{text}");
        }
    });
}

#[test]
fn a_rank_that_is_no_member_gets_no_group() {
    within_limit(|| {
        let errors = run_ranks(2, LONG, |factory| {
            if factory.rank() == 1 {
                factory.group("first", &[0]).err()
            } else {
                None
            }
        });
        let text = errors[1].as_ref().unwrap().to_string();
        assert!(text.contains("rank 1") && text.contains("`first`"), "{text}");
    });
}
