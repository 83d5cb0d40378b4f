//! Gloo between two and three ranks: every collective in f32 and bf16, transfers, deadlines, refusals.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

mod ranks;

use std::time::{Duration, Instant};

use neva_torch_ffi::{Error, GlooGroup, GlooOptions, LogLevel, ReduceOp, TcpStore, Work, set_log_level};
use ranks::{DEADLINE, HOST, run};
use tch::{Device, Kind, Tensor};

const SHORT: Duration = Duration::from_millis(500);

/// A group has this long to connect, too, also on a busy machine.
const GROUP_SHORT: Duration = Duration::from_secs(3);
const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];

/// A collective on one tensor.
type Call = fn(&GlooGroup, &Tensor) -> Result<Work, Error>;

fn tensor(values: &[f64], kind: Kind) -> Tensor {
    Tensor::from_slice(values).to_kind(kind)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

fn wait(work: Result<Work, Error>) {
    work.unwrap().wait(DEADLINE).unwrap();
}

/// Checks the result of `collective` on each of `N` ranks, for both kinds, with and without comparing ranks.
fn check<const N: usize>(collective: fn(&GlooGroup, f64, Kind) -> Tensor, expect: [&[f64]; N]) {
    for adjust in [|_: &mut GlooOptions| (), |options: &mut GlooOptions| options.check = true] {
        let found = run(N, adjust, move |group| {
            KINDS.map(|kind| {
                let output = collective(group, group.rank() as f64, kind);
                assert_eq!(output.kind(), kind);
                values(&output)
            })
        });
        for (rank, found) in found.iter().enumerate() {
            assert_eq!(found, &[expect[rank].to_vec(), expect[rank].to_vec()], "rank {rank}");
        }
    }
}

#[test]
fn all_reduce() {
    fn with(group: &GlooGroup, rank: f64, kind: Kind, op: ReduceOp) -> Tensor {
        let x = tensor(&[rank, 4.0 - rank], kind);
        wait(group.all_reduce(&x, op));
        x
    }
    check(|g, r, k| with(g, r, k, ReduceOp::Sum), [&[3.0, 9.0]; 3]);
    check(|g, r, k| with(g, r, k, ReduceOp::Min), [&[0.0, 2.0]; 3]);
    check(|g, r, k| with(g, r, k, ReduceOp::Max), [&[2.0, 4.0]; 3]);
    check(|g, r, k| with(g, r, k, ReduceOp::Avg), [&[1.0, 3.0]; 3]);
}

#[test]
fn all_gather_into() {
    check(
        |group, rank, kind| {
            let all = Tensor::zeros([3, 2], (kind, Device::Cpu));
            wait(group.all_gather_into(&all, &tensor(&[rank, 10.0 + rank], kind)));
            all
        },
        [&[0.0, 10.0, 1.0, 11.0, 2.0, 12.0]; 3],
    );
}

#[test]
fn reduce_scatter() {
    fn with(group: &GlooGroup, rank: f64, kind: Kind, op: ReduceOp) -> Tensor {
        let part = Tensor::zeros([1, 2], (kind, Device::Cpu));
        let input = tensor(&[rank, 2.0, 4.0, 8.0 * rank], kind).view([2, 2]);
        wait(group.reduce_scatter(&part, &input, op));
        assert_eq!(values(&input), [rank, 2.0, 4.0, 8.0 * rank], "the input is only read");
        part
    }
    check(|g, r, k| with(g, r, k, ReduceOp::Sum), [&[1.0, 4.0], &[8.0, 8.0]]);
    check(|g, r, k| with(g, r, k, ReduceOp::Avg), [&[0.5, 2.0], &[4.0, 4.0]]);
    check(|g, r, k| with(g, r, k, ReduceOp::Max), [&[1.0, 2.0], &[4.0, 8.0]]);
}

#[test]
fn broadcast() {
    check(
        |group, rank, kind| {
            let x = tensor(&[rank, rank + 5.0], kind);
            wait(group.broadcast(&x, 1));
            x
        },
        [&[1.0, 6.0]; 3],
    );
}

#[test]
fn all_to_all() {
    check(
        |group, rank, kind| {
            let (input, output) = (tensor(&[rank, 10.0 + rank], kind), tensor(&[0.0, 0.0], kind));
            wait(group.all_to_all(&output, &input, &[], &[]));
            output
        },
        [&[0.0, 1.0], &[10.0, 11.0]],
    );
    // Uneven: rank 0 keeps one row and sends two; rank 1 sends nothing and keeps one.
    check(
        |group, rank, kind| {
            let own = group.rank() == 0;
            let input = if own {
                tensor(&[1.0, 2.0, 3.0], kind)
            } else {
                tensor(&[4.0 + rank], kind)
            };
            let (sent, received): (&[i64], &[i64]) = if own { (&[1, 2], &[1, 0]) } else { (&[0, 1], &[2, 1]) };
            let output = Tensor::zeros([received.iter().sum()], (kind, Device::Cpu));
            wait(group.all_to_all(&output, &input, received, sent));
            output
        },
        [&[1.0], &[2.0, 3.0, 5.0]],
    );
}

#[test]
fn send_and_recv() {
    check(
        |group, _, kind| {
            let (first, second) = (tensor(&[1.0, 2.0], kind), tensor(&[3.0, 4.0], kind));
            if group.rank() == 0 {
                let (mut a, mut b) = (group.send(&first, 1, 7).unwrap(), group.send(&second, 1, 8).unwrap());
                a.wait(DEADLINE).unwrap();
                b.wait(DEADLINE).unwrap();
                return first;
            }
            // The tag pairs them, not the order.
            let (later, sooner) = (first.zeros_like(), first.zeros_like());
            wait(group.recv(&later, 0, 8));
            wait(group.recv(&sooner, 0, 7));
            Tensor::cat(&[sooner, later], 0)
        },
        [&[1.0, 2.0], &[1.0, 2.0, 3.0, 4.0]],
    );
}

#[test]
fn empty_tensors() {
    run(
        2,
        |_| (),
        |group| {
            for kind in KINDS {
                let empty = || Tensor::zeros([0, 4], (kind, Device::Cpu));
                wait(group.all_reduce(&empty(), ReduceOp::Sum));
                wait(group.all_gather_into(&empty(), &empty()));
                wait(group.reduce_scatter(&empty(), &empty(), ReduceOp::Sum));
                wait(group.all_to_all(&empty(), &empty(), &[], &[]));
            }
        },
    );
}

#[test]
fn work_is_asynchronous_and_owns_its_tensors() {
    let done = run(
        2,
        |_| (),
        |group| {
            let ahead: Vec<Work> = (0..8)
                .map(|step| group.all_reduce(&Tensor::full([1000], step, (Kind::Float, Device::Cpu)), ReduceOp::Sum))
                .map(Result::unwrap)
                .collect();
            // Dropped collectives still run, although no handle holds their tensors; a later barrier waits for all of them.
            drop(ahead);
            let mut barrier = group.barrier().unwrap();
            barrier.wait(DEADLINE).unwrap();
            barrier.wait(DEADLINE).unwrap();
            barrier.is_completed().unwrap()
        },
    );
    assert_eq!(done, [true, true]);
}

#[test]
fn an_average_is_taken_once() {
    run(
        2,
        |_| (),
        |group| {
            let x = Tensor::from_slice(&[4f32]);
            let mut work = group.all_reduce(&x, ReduceOp::Avg).unwrap();
            work.wait(DEADLINE).unwrap();
            work.wait(DEADLINE).unwrap();
            assert_eq!(values(&x), [4.0]);
        },
    );
}

#[test]
fn a_peer_that_does_not_call_is_a_deadline() {
    let calls: [Call; 4] = [
        |group, x| group.all_reduce(x, ReduceOp::Sum),
        |group, _| group.barrier(),
        |group, x| group.recv(x, 1, 0),
        |group, x| group.broadcast(x, 1),
    ];
    // By the caller's deadline, and by the group's own; all at once, because they wait for nothing else.
    let adjusts = [|_: &mut GlooOptions| (), |options: &mut GlooOptions| options.timeout = GROUP_SHORT];
    std::thread::scope(|scope| {
        for call in calls {
            for adjust in adjusts {
                scope.spawn(move || run(2, adjust, move |group| expect_deadline(group, call)));
            }
        }
    });
}

/// Rank 0 calls, rank 1 does not.
fn expect_deadline(group: &GlooGroup, call: Call) {
    if group.rank() == 1 {
        return;
    }
    let (start, by_group) = (Instant::now(), group.timeout() == GROUP_SHORT);
    let (limit, expect) = if by_group { (DEADLINE, GROUP_SHORT) } else { (SHORT, SHORT) };
    let error = call(group, &Tensor::from_slice(&[1f32])).unwrap().wait(limit).unwrap_err();
    assert!(matches!(error, Error::Deadline { after, .. } if after == expect), "{error:?}");
    assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
    group.abort().unwrap();
}

/// Without `abort`, a rank that waits for one that failed learns nothing until its timeout.
#[test]
fn abort_ends_what_is_under_way_on_all_ranks() {
    let waits: [Call; 3] = [
        |group, x| group.all_reduce(x, ReduceOp::Sum),
        |group, x| group.recv(x, 2, 0),
        |group, _| group.barrier(),
    ];
    for wait in waits {
        let start = Instant::now();
        run(
            3,
            |_| (),
            move |group| {
                if group.rank() == 2 {
                    group.abort().unwrap();
                    return group.abort().unwrap();
                }
                let error = wait(group, &Tensor::from_slice(&[1f32]))
                    .and_then(|mut work| work.wait(DEADLINE))
                    .unwrap_err();
                assert!(matches!(error, Error::Torch { .. }), "{error:?}");
                // Rank 0 may be waiting for rank 1 only: each passes the failure on.
                group.abort().unwrap();
            },
        );
        assert!(start.elapsed() < DEADLINE / 4, "{:?}", start.elapsed());
    }
}

#[test]
fn a_rank_that_does_not_come_is_a_deadline() {
    set_log_level(LogLevel::Fatal);
    let store = TcpStore::server(HOST, 0, 2, DEADLINE).unwrap();
    let options = GlooOptions {
        timeout: SHORT,
        ..ranks::options(0, 2)
    };
    let error = GlooGroup::new(&store, &options).unwrap_err();
    assert!(matches!(error, Error::Deadline { after: SHORT, .. }), "{error:?}");
    assert!(error.to_string().contains("rank 0 of `test` did not meet all 2 ranks"), "{error}");
}

/// Trap: without `check`, a difference between ranks ends the process.
#[test]
fn ranks_that_disagree_are_told() {
    type OwnCall = fn(&GlooGroup) -> Result<Work, Error>;
    let cases: [(OwnCall, &str); 4] = [
        (|g| g.all_reduce(&ones_like_rank(g, Kind::Float), ReduceOp::Sum), "1 elements"),
        (
            |g| {
                let kind = if g.rank() == 0 { Kind::Float } else { Kind::Double };
                g.all_reduce(&Tensor::ones([2], (kind, Device::Cpu)), ReduceOp::Sum)
            },
            "dtype",
        ),
        (
            |g| g.broadcast(&Tensor::ones([2], (Kind::Float, Device::Cpu)), g.rank()),
            "option 1",
        ),
        (
            |g| {
                if g.rank() == 0 {
                    g.barrier()
                } else {
                    g.all_reduce(&ones_like_rank(g, Kind::Float), ReduceOp::Sum)
                }
            },
            "another operation",
        ),
    ];
    for (call, expect) in cases {
        run(
            2,
            |options| options.check = true,
            move |group| {
                let error = call(group).unwrap_err();
                assert!(matches!(error, Error::Argument(_)), "{error:?}");
                let text = error.to_string();
                assert!(text.contains("ranks do not agree") && text.contains(expect), "{text}");
            },
        );
    }
}

fn ones_like_rank(group: &GlooGroup, kind: Kind) -> Tensor {
    Tensor::ones([group.rank() as i64 + 1], (kind, Device::Cpu))
}

#[test]
fn arguments_that_cannot_work() {
    run(
        1,
        |_| (),
        |group| {
            let (one, four) = (
                Tensor::zeros([1, 2], tch::kind::FLOAT_CPU),
                Tensor::zeros([4, 2], tch::kind::FLOAT_CPU),
            );
            let int = Tensor::zeros([1, 2], (Kind::Int64, Device::Cpu));
            let fp8 = Tensor::zeros([2], (Kind::Float8e4m3fn, Device::Cpu));
            let check = |found: Result<Work, Error>, expect: &str| {
                let error = found.unwrap_err();
                assert!(matches!(error, Error::Argument(_)) && error.to_string().contains(expect), "{error}");
            };
            check(group.all_reduce(&Tensor::new(), ReduceOp::Sum), "undefined");
            check(group.all_reduce(&four.tr(), ReduceOp::Sum), "not contiguous");
            check(group.all_reduce(&fp8, ReduceOp::Sum), "view_dtype(Kind::Uint8)");
            check(group.all_reduce(&int, ReduceOp::Avg), "average of Int64");
            check(
                group.all_gather_into(&four, &one),
                "output has 8 elements, want 1 ranks x 2 of input",
            );
            check(group.all_gather_into(&int, &one), "output is Int64, input Float");
            check(group.reduce_scatter(&one, &four, ReduceOp::Sum), "input has 8 elements");
            check(group.broadcast(&one, 1), "no rank 1 in a group of 1");
            check(group.send(&one, 0, 0), "rank 0 to itself");
            check(group.send(&one, 3, 0), "no rank 3");
            check(group.recv(&one, 3, i32::MAX as u32), "tags go up to 2147483646");
            check(group.all_to_all(&four, &four, &[3], &[4]), "rows [3] of output");
            check(group.all_to_all(&four, &four, &[4], &[]), "or of neither");
            check(group.all_to_all(&four, &int, &[], &[]), "output is Float, input Int64");
        },
    );
    let store = TcpStore::server(HOST, 0, 1, DEADLINE).unwrap();
    let error = GlooGroup::new(&store, &ranks::options(1, 1)).unwrap_err();
    assert!(error.to_string().contains("ranks count from 0"), "{error}");
}
