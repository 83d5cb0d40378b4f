//! Meshes, and collectives over threads.

use crate::setting::{ONE, within_limit};
use neva_engine::EngineError;
use neva_engine::comm::{
    Axis, Collective, CommError, Fabric, Mesh, Pending, Reduce, all_succeed, first_decides, run_ranks, stages_succeed,
};
use neva_schemas::ParallelSizes;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

const LONG: Duration = Duration::from_secs(60);

/// Forms no groups, and remembers which were asked for.
struct Recorder {
    rank: usize,
    world: usize,
    groups: Mutex<BTreeMap<String, Vec<usize>>>,
}

#[derive(Debug)]
struct Place(usize, usize);

impl Collective for Place {
    fn rank(&self) -> usize {
        self.0
    }

    fn size(&self) -> usize {
        self.1
    }

    fn start_all_reduce(&self, _: &Tensor, _: Reduce) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }

    fn start_all_gather(&self, _: &Tensor, _: &Tensor) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }

    fn start_reduce_scatter(&self, _: &Tensor, _: &Tensor) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }

    fn start_broadcast(&self, _: &Tensor, _: usize) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }

    fn send(&self, _: &Tensor, _: usize, _: u32) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }

    fn recv(&self, _: &Tensor, _: usize, _: u32) -> Result<Pending, CommError> {
        Err(CommError::Strangers("nobody is there".into()))
    }
}

impl Fabric for Recorder {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn group(&self, name: &str, members: &[usize]) -> Result<Arc<dyn Collective>, CommError> {
        let place = members.iter().position(|member| *member == self.rank).unwrap();
        assert!(
            self.groups.lock().unwrap().insert(name.into(), members.to_vec()).is_none(),
            "`{name}` was asked for twice"
        );
        Ok(Arc::new(Place(place, members.len())))
    }
}

fn all_sizes() -> Vec<ParallelSizes> {
    let mut all = Vec::new();
    for tp in 1..=3 {
        for cp in 1..=2 {
            for dp in 1..=3 {
                for pp in 1..=2 {
                    all.push(ParallelSizes { tp, cp, dp, pp });
                }
            }
        }
    }
    all
}

#[test]
fn ranks_count_tensor_context_data_pipeline() {
    for sizes in all_sizes() {
        let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(|size| size as usize);
        let world = sizes.world() as usize;
        let mut named: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let number = |place: [usize; 4]| ((place[3] * lengths[2] + place[2]) * lengths[1] + place[1]) * lengths[0] + place[0];
        for p in 0..lengths[3] {
            for d in 0..lengths[2] {
                for c in 0..lengths[1] {
                    for t in 0..lengths[0] {
                        let place = [t, c, d, p];
                        let fabric = Recorder {
                            rank: number(place),
                            world,
                            groups: Mutex::default(),
                        };
                        let mesh = Mesh::new(sizes, &fabric).unwrap();
                        let groups = fabric.groups.into_inner().unwrap();
                        for (index, axis) in Axis::ALL.into_iter().enumerate() {
                            let group = mesh.axis(axis);
                            assert_eq!(
                                (group.rank(), group.size()),
                                (place[index], lengths[index]),
                                "{sizes:?} {axis:?} of {place:?}"
                            );
                            let members: Vec<_> = (0..lengths[index])
                                .map(|other| {
                                    let mut there = place;
                                    there[index] = other;
                                    number(there)
                                })
                                .collect();
                            assert!(
                                members.len() == 1 || groups.values().any(|found| *found == members),
                                "{sizes:?}: {groups:?} lacks {members:?}"
                            );
                        }
                        assert_eq!(
                            (mesh.world().rank(), mesh.world().size(), mesh.is_first()),
                            (number(place), world, number(place) == 0)
                        );
                        assert_eq!(mesh.sizes(), sizes);
                        for (name, members) in groups {
                            let known = named.entry(name.clone()).or_insert_with(|| members.clone());
                            assert_eq!(*known, members, "{sizes:?}: ranks disagree on `{name}`");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_mesh_of_another_size_is_refused() {
    let fabric = Recorder {
        rank: 0,
        world: 3,
        groups: Mutex::default(),
    };
    let error = Mesh::new(
        ParallelSizes {
            tp: 2,
            ..ParallelSizes::ONE
        },
        &fabric,
    )
    .unwrap_err();
    assert!(
        matches!(&error, CommError::Bug(text) if text.contains('3') && text.contains('2')),
        "{error}"
    );
}

#[test]
fn groups_of_a_mesh_sum_over_their_own_axis() {
    within_limit(|| {
        for sizes in all_sizes().into_iter().filter(|sizes| sizes.world() <= 12) {
            let sums = run_ranks(sizes.world() as usize, LONG, |fabric| {
                let mesh = Mesh::new(sizes, &fabric).unwrap();
                Axis::ALL.map(|axis| {
                    let sum = Tensor::from(fabric.rank() as i64);
                    mesh.axis(axis).all_reduce(&sum, Reduce::Sum).unwrap();
                    sum.int64_value(&[])
                })
            });
            let lengths = [sizes.tp, sizes.cp, sizes.dp, sizes.pp].map(i64::from);
            for (rank, sums) in sums.into_iter().enumerate() {
                let mut stride = 1;
                for (sum, length) in sums.into_iter().zip(lengths) {
                    let coordinate = rank as i64 / stride % length;
                    let expected: i64 = (0..length).map(|other| rank as i64 + (other - coordinate) * stride).sum();
                    assert_eq!(sum, expected, "{sizes:?}, rank {rank}, stride {stride}");
                    stride *= length;
                }
            }
        }
    });
}

/// Every operation, on every kind that the engine sends. Also for the Gloo tests.
pub(crate) fn check_collectives(group: &dyn Collective) {
    let (rank, size) = (group.rank() as i64, group.size() as i64);
    for kind in [Kind::Float, Kind::Double, Kind::Int64, Kind::BFloat16] {
        let of = |rank: i64| Tensor::from_slice(&[rank + 1, -10 * rank]).to_kind(kind).view([1, 2]);
        let check = |what: &str, got: &Tensor, expected: &[i64]| {
            assert_eq!((got.kind(), got.size()), (kind, vec![1, 2]), "{what}");
            assert_eq!(
                Vec::<i64>::try_from(got.to_kind(Kind::Int64).flatten(0, -1)).unwrap(),
                expected,
                "{what} of {kind:?} on rank {rank}"
            );
        };
        let (sum, max) = (of(rank), of(rank));
        group.all_reduce(&sum, Reduce::Sum).unwrap();
        check("sum", &sum, &[size * (size + 1) / 2, -5 * size * (size - 1)]);
        group.all_reduce(&max, Reduce::Max).unwrap();
        check("max", &max, &[size, 0]);

        let mine = of(rank);
        let gathered = group.all_gather(&mine).unwrap();
        // The parts are the caller's own: writing to the source does not reach them.
        let _ = mine.shallow_clone().fill_(7);
        assert_eq!(gathered.len() as i64, size);
        for (other, part) in gathered.iter().enumerate() {
            check("gathered part", part, &[other as i64 + 1, -10 * other as i64]);
        }
        // Rank r brings (r + 1) x [0, 1, ..], a row for each rank.
        let rows = Tensor::arange(2 * size, (Kind::Int64, Device::Cpu)).view([size, 2]).to_kind(kind) * (rank + 1);
        let part = group.reduce_scatter(&rows).unwrap();
        let times = size * (size + 1) / 2;
        check("scattered part", &part.unsqueeze(0), &[2 * rank * times, (2 * rank + 1) * times]);
        for root in 0..size {
            let value = of(rank);
            group.broadcast(&value, root as usize).unwrap();
            check("broadcast", &value, &[root + 1, -10 * root]);
        }
        // Several at once, and transfers that arrive in another order than they are asked for.
        let (first, second) = (of(rank), of(rank + 1));
        let (a, b) = (
            group.start_all_reduce(&first, Reduce::Sum).unwrap(),
            group.start_all_reduce(&second, Reduce::Max).unwrap(),
        );
        b.wait().unwrap();
        a.wait().unwrap();
        check("sum of two at once", &first, &[size * (size + 1) / 2, -5 * size * (size - 1)]);
        check("max of two at once", &second, &[size + 1, -10]);
        if size > 1 {
            let (next, previous) = (((rank + 1) % size) as usize, ((rank + size - 1) % size) as usize);
            let sent = [3, 4].map(|tag| group.send(&of(rank * 10 + i64::from(tag)), next, tag).unwrap());
            for tag in [4, 3] {
                let into = of(0);
                group.recv(&into, previous, tag).unwrap().wait().unwrap();
                let number = previous as i64 * 10 + i64::from(tag);
                check("received", &into, &[number + 1, -10 * number]);
            }
            sent.into_iter().for_each(|sent| sent.wait().unwrap());
        }
        let (scalar, empty) = (Tensor::from(rank).to_kind(kind), Tensor::zeros([0, 3], (kind, Device::Cpu)));
        group.all_reduce(&scalar, Reduce::Sum).unwrap();
        assert_eq!(scalar.double_value(&[]) as i64, size * (size - 1) / 2);
        group.all_reduce(&empty, Reduce::Sum).unwrap();
        assert_eq!(group.all_gather(&empty).unwrap().len() as i64, size);
    }
}

#[test]
fn threads_combine_every_kind() {
    within_limit(|| {
        for world in [1, 2, 3] {
            run_ranks(world, LONG, |fabric| {
                check_collectives(&*fabric.group("all", &(0..world).collect::<Vec<_>>()).unwrap())
            });
        }
    });
}

#[test]
fn a_rank_that_ends_frees_its_peers() {
    within_limit(|| {
        let started = Instant::now();
        let outcomes = run_ranks(3, LONG, |fabric| {
            let group = fabric.group("all", &[0, 1, 2])?;
            if fabric.rank() == 1 {
                return Err(CommError::Strangers("rank 1 has its own trouble".into()));
            }
            group.all_reduce(&Tensor::from(1f32), Reduce::Sum)
        });
        for rank in [0, 2] {
            let error = outcomes[rank].as_ref().unwrap_err();
            assert!(matches!(error, CommError::Peer { .. }), "rank {rank}: {error}");
            assert_eq!(error.to_string(), "all_reduce(sum) in group `all`: rank 1 has ended");
        }
        assert!(matches!(outcomes[1], Err(CommError::Strangers(_))));
        assert!(started.elapsed() < LONG / 4, "the peers waited {:?}", started.elapsed());
    });
}

/// What a rank cannot tell, since another one has ended, it still says itself.
#[test]
fn a_rank_that_cannot_tell_its_error_keeps_it() {
    type Talk = fn(&Mesh) -> EngineError;
    fn own() -> EngineError {
        EngineError::Machine("this rank has its own trouble".into())
    }
    let talks: [Talk; 3] = [
        |mesh| all_succeed(mesh, Err(own())).unwrap_err(),
        |mesh| stages_succeed::<()>(mesh, Err(own())).unwrap_err(),
        |mesh| first_decides::<()>(mesh, || Err(own())).unwrap_err(),
    ];
    within_limit(move || {
        for talk in talks {
            let outcomes = run_ranks(2, LONG, |fabric| {
                let mesh = Mesh::new(ParallelSizes { pp: 2, ..ONE }, &fabric).unwrap();
                (mesh.is_first()).then(|| talk(&mesh).to_string())
            });
            assert_eq!(outcomes[0].as_deref(), Some("this rank has its own trouble"));
        }
    });
}

#[test]
fn a_rank_that_panics_frees_its_peers() {
    within_limit(|| {
        let started = Instant::now();
        let peers = Mutex::new(Vec::new());
        let panic = catch_unwind(AssertUnwindSafe(|| {
            run_ranks(3, LONG, |fabric| {
                let group = fabric.group("all", &[0, 1, 2]).unwrap();
                assert_ne!(fabric.rank(), 2, "rank 2 breaks");
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
fn a_group_that_is_formed_after_a_rank_has_ended_fails_too() {
    within_limit(|| {
        let (gone, wait) = channel::<()>();
        let (gone, wait) = (Mutex::new(Some(gone)), Mutex::new(wait));
        let outcomes = run_ranks(2, LONG, |fabric| {
            if fabric.rank() == 1 {
                // The sender's end tells rank 0 that this body is as good as over.
                drop(gone.lock().unwrap().take());
                return Ok(());
            }
            assert!(wait.lock().unwrap().recv_timeout(LONG).is_err());
            fabric.group("late", &[0, 1])?.all_reduce(&Tensor::from(1f32), Reduce::Sum)
        });
        assert!(matches!(outcomes[0], Err(CommError::Peer { .. })), "{:?}", outcomes[0]);
    });
}

fn zeros(len: i64, kind: Kind) -> Tensor {
    Tensor::zeros([len], (kind, Device::Cpu))
}

#[test]
fn ranks_that_disagree_are_told_so() {
    type Call = fn(&dyn Collective) -> Result<(), CommError>;
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
            let outcomes = run_ranks(2, LONG, |fabric| {
                let group = fabric.group("pair", &[0, 1]).unwrap();
                let outcome = if fabric.rank() == 0 { first(&*group) } else { second(&*group) };
                // The ranks have not lost step with each other.
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
fn a_deadline_names_what_was_waited_for() {
    within_limit(|| {
        let (done, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let done = Mutex::new(done);
        // A rank that has ended is another error: both wait until both have given up.
        let given_up = Barrier::new(2);
        let outcomes = run_ranks(3, Duration::from_millis(150), |fabric| {
            let group = fabric.group("tensor.0", &[0, 1, 2]).unwrap();
            if fabric.rank() == 2 {
                // Alive, but busy elsewhere until both peers have given up.
                (0..2).for_each(|_| wait.lock().unwrap().recv_timeout(LONG).unwrap());
                return None;
            }
            let error = group
                .all_reduce(&Tensor::zeros([4, 5], (Kind::BFloat16, Device::Cpu)), Reduce::Max)
                .unwrap_err();
            done.lock().unwrap().send(()).unwrap();
            given_up.wait();
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
fn a_stranger_gets_no_group() {
    within_limit(|| {
        let errors = run_ranks(2, LONG, |fabric| {
            if fabric.rank() == 1 {
                fabric.group("first", &[0]).err()
            } else {
                None
            }
        });
        let text = errors[1].as_ref().unwrap().to_string();
        assert!(text.contains("rank 1") && text.contains("`first`"), "{text}");
    });
}
